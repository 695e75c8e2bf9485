"""Samples: which rows are shown, and that they come back as they were."""

import dataclasses

import numpy as np
import pytest

from jest_tf.errors import UserError
from jest_tf.files import steps_with_file
from jest_tf.monitoring.samples import (
    GROUPS,
    Samples,
    cut_samples,
    pick_samples,
    read_samples,
    write_samples,
)


def some_samples(n=5) -> Samples:
    rng = np.random.default_rng(0)
    return Samples(
        group=np.array([list(GROUPS)[i % 3] for i in range(n)]),
        id=np.arange(n) * 10**15,
        image=rng.integers(0, 256, [n, 4, 6, 3], dtype=np.uint8),
        caption=np.array([f"caption {i} é中 <b>" for i in range(n)], dtype=object),
        source=np.array(["pool"] * n),
        score=rng.normal(size=n).astype(np.float32),
        learner_loss=np.full(n, np.nan, np.float32),
        reference_loss=rng.normal(size=n).astype(np.float32),
    )


def test_comes_back_as_it_was(tmp_path):
    samples = some_samples()
    write_samples(tmp_path / "samples", 100, samples)
    found = read_samples(tmp_path / "samples", 100)
    for name in ("group", "id", "image", "caption", "source", "score", "learner_loss"):
        np.testing.assert_array_equal(getattr(found, name), getattr(samples, name))
    assert list(found.of("rejected_noise").id) == [10**15, 4 * 10**15]


def test_keys_come_back_and_files_without_them_are_read(tmp_path):
    samples = dataclasses.replace(some_samples(3), key=np.array(["a/1.jpg", "", "b/2.jpg"]))
    path = write_samples(tmp_path, 1, samples)
    assert list(read_samples(tmp_path, 1).key) == ["a/1.jpg", "", "b/2.jpg"]
    with np.load(path) as arrays:
        np.savez(path, **{name: arrays[name] for name in arrays if name != "key"})
    assert list(read_samples(tmp_path, 1).key) == [""] * 3


def test_steps_and_cut(tmp_path):
    assert steps_with_file(tmp_path / "missing") == []
    for step in (200, 20, 100):
        write_samples(tmp_path, step, some_samples())
    (tmp_path / "other.txt").touch()
    assert steps_with_file(tmp_path) == [20, 100, 200]
    cut_samples(tmp_path, 100)
    assert steps_with_file(tmp_path) == [20, 100]


def test_damage_is_named(tmp_path):
    path = write_samples(tmp_path, 1, some_samples())
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="step-00000001.npz cannot be read"):
        read_samples(tmp_path, 1)
    with pytest.raises(UserError, match="step-00000002.npz"):
        read_samples(tmp_path, 2)


def test_uneven_fields_are_refused():
    with pytest.raises(ValueError, match="same length"):
        Samples(*([np.zeros(2)] * 7), np.zeros(3))


def test_which_rows_are_shown():
    score = np.array([5.0, 9.0, 1.0, 8.0, 0.0, 7.0])
    learner = np.array([6.0, 9.5, 2.0, 9.0, 3.0, 7.0])
    reference = learner - score
    chosen = np.array([True, True, False, False, False, False])
    valid = np.array([True, True, True, True, True, False])
    rows = pick_samples(score, learner, reference, chosen, valid, per_group=1)
    assert {name: list(of_group) for name, of_group in rows.items()} == {
        "chosen": [1],
        "rejected_noise": [4],  # reference loss 3, the highest of the valid rejected
        "rejected_known": [2],
    }
    everything = pick_samples(score, learner, reference, chosen, valid, per_group=9)
    assert sorted(np.concatenate(list(everything.values()))) == [0, 1, 2, 3, 4]
