"""Verdicts against labels that the test knows, and against plain loops."""

import numpy as np
import pytest

from jest_tf.monitoring.verdicts import judge, mates, representatives, wrong_threshold


def ranks(wrong_share, n=20_000, seed=0):
    """(ranks, which are wrong): sound pairs near 0, wrong ones evenly around 0.5."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < wrong_share
    return np.where(wrong, rng.random(n), rng.beta(1, 20, n)).astype(np.float32), wrong


@pytest.mark.parametrize("wrong_share", [0.1, 0.4, 0.7])
def test_the_threshold_makes_hardly_more_errors_than_the_best_one(wrong_share):
    rank, wrong = ranks(wrong_share)
    threshold, estimated = wrong_threshold(rank)
    assert estimated == pytest.approx(wrong_share, abs=0.02)

    def errors(at):
        return np.mean((rank >= at) != wrong)

    best = min(errors(at) for at in np.linspace(0, 1, 201))
    assert errors(threshold) < best + 0.01


def test_nothing_is_wrong_where_no_rank_is_above_chance():
    assert wrong_threshold(np.linspace(0, 0.4, 100))[0] > 0.4
    assert wrong_threshold(np.full(5, np.nan)) == (np.inf, 0.0)


def test_a_given_share_is_met():
    rank, _ = ranks(0.4)
    threshold, _ = wrong_threshold(rank, 0.25)
    assert np.mean(rank >= threshold) == pytest.approx(0.25, abs=0.001)
    assert wrong_threshold(rank, 0.0)[0] == np.inf


def test_each_verdict_has_the_rule_that_gave_it():
    nan = np.nan
    table = {
        "reference_rank": np.array([0.0, 0.9, 0.0, 0.9, nan, 0.01, nan], np.float32),
        "learnability": np.array([1.0, 1.0, -0.1, -0.1, nan, 1.0, nan], np.float32),
        "times_loaded": np.array([3, 3, 3, 3, 0, 3, 2]),
        "readable": np.ones(7, bool),
    }
    found = judge(table, np.array([0, 1, 2, 3, 4, 0, 6]))
    assert found.verdict.tolist() == [
        "useful", "wrong pair", "learned", "wrong pair", "not seen", "duplicate", "not seen",
    ]  # fmt: skip
    assert found.rule[1].startswith("reference_rank >= ") and "never loaded" in found.rule[4]
    assert "never scored" in found.rule[6]
    assert np.isnan(found.border).tolist() == [False] * 4 + [True] * 3


def test_duplicates_and_mates_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    a, b = rng.integers(-5, 5, [2, 200])
    pairs = list(zip(a, b, strict=True))
    assert representatives(a, b).tolist() == [pairs.index(pair) for pair in pairs]
    assert mates(a).tolist() == [int((a == x).sum()) - 1 for x in a]
