"""Counts and losses of each record, against the sums of a plain loop."""

import numpy as np
import pytest

from jest_tf.errors import UserError
from jest_tf.files import steps_with_file
from jest_tf.monitoring.ledger import COLUMNS, Ledger, LedgerFiles, read_ledger

N = 50


def steps(n, seed=0):
    """Steps as a model observes them: some records invalid, some losses not finite, two passed."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        record = rng.permutation(N)[:16]
        record[rng.random(16) < 0.1] = -1
        losses = rng.normal(size=[16, 4]).astype(np.float32)
        losses[rng.random(16) < 0.1, 0] = np.nan
        code = 2 * record + (rng.random(16) < 0.3)
        yield np.append(code, 2 * rng.integers(0, N, 2)), losses


def test_the_table_is_that_of_a_plain_loop():
    ledger, seen, passed = Ledger(N), {i: [] for i in range(N)}, np.zeros(N, int)
    for code, losses in steps(20):
        ledger.add(code, losses)
        for c in code[16:]:
            passed[c // 2] += 1
        for c, pair in zip(code[:16], losses, strict=True):
            if c >= 0:
                seen[c // 2].append((c % 2, *pair[:2]))
    found = ledger.table()
    assert (found["times_passed_over"] == passed).all() and passed.any()
    for i, visits in seen.items():
        scored = [(a, b) for _, a, b in visits if np.isfinite(a)]
        assert found["times_loaded"][i] == len(visits)
        assert found["times_selected"][i] == sum(v[0] for v in visits)
        if scored:
            gaps = [a - b for a, b in scored]
            expected = [np.mean(gaps), gaps[-1], scored[-1][0], np.mean([b for _, b in scored])]
        else:
            expected = [np.nan] * 4
        names = ("mean_learnability", "last_learnability", "learner_loss", "reference_loss")
        np.testing.assert_allclose([found[k][i] for k in names], expected, rtol=1e-5, atol=1e-6)


def test_a_policy_that_asks_no_model_or_one_leaves_nan():
    ledger = Ledger(4)
    ledger.add(np.array([0, 3]), np.full([2, 4], np.nan, np.float32))
    ledger.add(
        np.array([4, 7]), np.array([[1, np.nan, 0.1, np.nan], [2, np.nan, 0.2, np.nan]], np.float32)
    )
    table = ledger.table()
    assert table["times_loaded"].tolist() == [1, 1, 1, 1]
    assert table["times_selected"].tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(table["learner_loss"], [np.nan, np.nan, 1, 2])
    np.testing.assert_array_equal(table["learner_rank"], np.float32([np.nan, np.nan, 0.1, 0.2]))
    assert np.isnan(table["reference_loss"]).all() and np.isnan(table["reference_rank"]).all()


def test_a_large_set_has_a_ledger_of_every_kth_record(tmp_path):
    small = LedgerFiles(tmp_path, N, 10, keep=3, start_step=0).ledger
    whole = Ledger(N)
    for code, losses in steps(9):
        small.add(code, losses)
        whole.add(code, losses)
    assert small.stride == 5 and len(small.columns["loaded"]) == 10
    for name in COLUMNS:
        np.testing.assert_array_equal(small.columns[name], whole.columns[name][::5])


def test_a_resumed_run_goes_on_from_the_file_of_its_checkpoint(tmp_path):
    observed = list(steps(8))
    whole = LedgerFiles(tmp_path / "whole", N, N, 2, 0)
    cut = LedgerFiles(tmp_path / "cut", N, N, 2, 0)
    for i, step in enumerate(observed, start=1):
        for files in (whole, cut):
            if files is whole or i <= 6:  # two steps after its last checkpoint are lost
                files.ledger.add(*step)
                if i % 2 == 0:
                    files.saving(i)()
    resumed = LedgerFiles(tmp_path / "cut", N, N, 2, 4)
    assert steps_with_file(tmp_path / "cut") == [4]
    for step in observed[4:]:
        resumed.ledger.add(*step)
    resumed.saving(8)()
    found, expected = read_ledger(tmp_path / "cut"), read_ledger(tmp_path / "whole", 8)
    for name in COLUMNS:
        assert found.columns[name].tobytes() == expected.columns[name].tobytes()
    assert LedgerFiles(tmp_path / "cut", N, N, 2, 6).ledger.since == 6


def test_a_missing_or_damaged_ledger_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no ledger"):
        read_ledger(tmp_path)
    (tmp_path / "step-00000004.npz").write_bytes(b"PK damaged")
    with pytest.raises(UserError, match="cannot be read"):
        read_ledger(tmp_path)
