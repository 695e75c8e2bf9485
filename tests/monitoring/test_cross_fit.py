"""What is learned from audited pairs, where the test knows what belongs together."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from jest_tf.monitoring import cross_fit
from jest_tf.monitoring.cross_fit import CrossFit, pair_rank

N, D = 1000, 8


def unit(z):
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def pairs(monkeypatch):
    """Captions are rotated pictures, which cosines do not know; 30% are wrong."""
    monkeypatch.setattr(cross_fit, "WAVES", 64)
    monkeypatch.setattr(cross_fit, "WORDS", 16)
    rng = np.random.default_rng(0)
    zimg = unit(rng.normal(size=[N, D]))
    of = np.where(rng.random(N) < 0.3, rng.permutation(N), np.arange(N))
    rotation = np.linalg.qr(rng.normal(size=[D, D]))[0]
    ztxt = unit(zimg[of] @ rotation + 0.05 * rng.normal(size=[N, D]))
    return (zimg, ztxt, [f"thing {n}" for n in range(N)], rng.integers(0, 5, N)), of != np.arange(N)


def learned(pairs):
    blocks = [[part[rows] for part in pairs] for rows in (slice(0, 300), slice(300, N))]
    return CrossFit.of(*pairs[:2], blocks)


def test_wrong_pairs_are_found_where_cosines_say_nothing(pairs):
    pairs, wrong = pairs
    rank = learned(pairs).rank(*pairs)
    blind = pair_rank(*pairs[:2], pairs[:2])
    assert np.median(rank[~wrong]) < 0.02 and np.median(rank[wrong]) > 0.3
    assert abs(np.median(blind[~wrong]) - np.median(blind[wrong])) < 0.1


def test_a_pair_is_judged_by_a_ridge_regression_that_never_saw_it(pairs, monkeypatch):
    monkeypatch.setattr(cross_fit, "RIDGES", (0.01,))
    zimg, ztxt, captions, fold = pairs[0]
    found = learned(pairs[0])
    white = [found.white(side, z) for side, z in enumerate((zimg, ztxt))]
    x = cross_fit.features_of(0, zimg, white[0], captions)
    alpha = 0.01 * np.sum(x**2) / x.shape[1]
    for f in range(5):
        seen = fold != f
        theirs = Ridge(alpha=alpha, fit_intercept=False).fit(x[seen], white[1][seen]).coef_.T
        np.testing.assert_allclose(found.arrays["weights0"][f], theirs, atol=2e-3)


def test_the_reference_is_kept_where_nothing_better_is_learned(pairs):
    zimg, _, captions, fold = pairs[0]
    rng = np.random.default_rng(1)
    ztxt = unit(zimg + 1e-3 * rng.normal(size=[N, D]))
    assert not learned((zimg, ztxt, captions, fold))
    assert not CrossFit.of(zimg, ztxt, [])


def test_pairs_by_chance_have_every_rank_alike(pairs):
    """So the ranks above a half show how many pairs are wrong, which `verdicts` builds on."""
    (zimg, ztxt, captions, fold), _ = pairs
    other = np.random.default_rng(7).permutation(N)
    rank = learned(pairs[0]).rank(zimg, ztxt[other], [captions[i] for i in other], fold)
    np.testing.assert_allclose(np.quantile(rank, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.07)


def test_the_weights_of_the_ways_are_those_of_a_logistic_regression():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=[300, 2]) + [0.5, 1.5], rng.normal(size=[900, 2])
    y = np.repeat([1, 0], [300, 900])
    theirs = LogisticRegression(C=1.0, tol=1e-8).fit(np.concatenate([one, other]), y).coef_[0]
    np.testing.assert_allclose(cross_fit.told_apart(one, other), theirs, rtol=0.01)


def test_repetitions_of_a_pair_fall_into_one_fold():
    content, caption = np.array([-5, 7, -5, 7]), np.array([3, -9, 3, 2])
    fold = cross_fit.folds(content, caption)
    assert fold[0] == fold[2] and ((fold >= 0) & (fold < cross_fit.FOLDS)).all()
