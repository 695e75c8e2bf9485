"""The ridge probe against scikit-learn's, and the stated choice of l2."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from jest_tf.errors import UserError
from jest_tf.evaluation.few_shot import (
    BIAS_FEATURE,
    RidgeProbe,
    Split,
    draw_shots,
    few_shot_metrics,
)


def clusters(rng, centres, n, noise):
    labels = np.arange(n) % len(centres)
    noise = noise * rng.standard_normal((n, centres.shape[1]))
    return Split((centres[labels] + noise).astype(np.float32), labels)


@pytest.mark.parametrize("n", [15, 80])  # fewer and more shots than features
def test_weights_equal_scikit_learn(n):
    rng = np.random.default_rng(n)
    split = clusters(rng, rng.standard_normal((4, 20)), n, 1.0)
    x = StandardScaler().fit_transform(split.features.astype(np.float64))
    x = np.pad(x, ((0, 0), (0, 1)), constant_values=BIAS_FEATURE)
    y = 2.0 * np.eye(4)[split.labels] - 1.0
    probe = RidgeProbe(split, 4)
    for l2 in (0.1, 10.0, 1000.0):
        truth = Ridge(alpha=l2, fit_intercept=False, solver="cholesky").fit(x, y).coef_.T
        np.testing.assert_allclose(probe.weights(l2), truth, atol=2e-5)


def test_l2_is_chosen_on_the_validation_split_alone():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((5, 30))
    train = clusters(rng, centres, 100, 2.0)
    validation = clusters(rng, centres, 200, 2.0)
    test = clusters(rng, centres, 200, 2.0)
    l2_values = (1e-3, 1e1, 1e2, 1e5)
    found = few_shot_metrics(train, validation, test, 5, (3,), l2_values, seeds=(0, 1))
    probes = [RidgeProbe(train.take(draw_shots(train.labels, 5, 3, seed)), 5) for seed in (0, 1)]
    table = {l2: np.mean([p.accuracy(validation, l2) for p in probes]) for l2 in l2_values}
    best = max(l2_values, key=lambda l2: table[l2])
    assert found["3shot/l2"] == best
    assert found["3shot/accuracy"] == pytest.approx(
        np.mean([p.accuracy(test, best) for p in probes])
    )
    # Other test labels change the score and never the choice.
    other = few_shot_metrics(
        train, validation, Split(test.features, (test.labels + 1) % 5), 5, (3,), l2_values, (0, 1)
    )
    assert other["3shot/l2"] == best and other["3shot/accuracy"] != found["3shot/accuracy"]


def test_separable_classes_reach_one():
    rng = np.random.default_rng(1)
    centres = 10 * np.eye(6)
    splits = [clusters(rng, centres, 60, 0.1) for _ in range(3)]
    found = few_shot_metrics(*splits, 6, shots=(1, 10))
    assert found["1shot/accuracy"] == found["10shot/accuracy"] == 1.0
    assert found["10shot/n_train"] == 60 and found["1shot/n_train"] == 6


def test_shots_are_nested_balanced_and_seeded():
    split = Split(np.arange(40, dtype=np.float32)[:, None], np.arange(40) % 4)
    few, many = (split.take(draw_shots(split.labels, 4, k, seed=7)) for k in (2, 5))
    assert set(few.features[:, 0]) < set(many.features[:, 0])
    assert np.bincount(many.labels).tolist() == [5, 5, 5, 5]
    other = split.take(draw_shots(split.labels, 4, 5, seed=8))
    assert set(other.features[:, 0]) != set(many.features[:, 0])


def test_wrong_inputs_are_refused():
    one = Split(np.ones((2, 3), np.float32), np.array([0, 1]))
    none = Split(np.ones((0, 3), np.float32), np.zeros(0, int))
    with pytest.raises(UserError, match="validation split holds no example"):
        few_shot_metrics(one, none, one, 2)
    with pytest.raises(UserError, match="1 test classes have no shot"):
        few_shot_metrics(one, one, Split(np.ones((1, 3), np.float32), np.array([2])), 3)
