"""Selection by losses per example against sorting, exact probabilities and the pair selection."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from jest_tf.errors import UserError
from jest_tf.selection import SelectionSpec, select_by_loss

B, SUB_BATCH = 12, 4
RNG = np.random.default_rng(0)
LEARNER, REFERENCE = RNG.normal(size=[2, B]).astype(np.float32)
VALID = np.ones([B], bool)
VALID[[2, 7]] = False
SCORES = {
    "learnability": LEARNER - REFERENCE,
    "half_learnability": 0.5 * LEARNER - REFERENCE,
    "hard_learner": LEARNER,
    "easy_reference": -REFERENCE,
}


def spec(**overrides) -> SelectionSpec:
    sizes = {"super_batch": B, "sub_batch": SUB_BATCH, "n_chunks": 2}
    return SelectionSpec(**(sizes | overrides))


def chosen(of_spec, learner=LEARNER, reference=REFERENCE, seed=(0, 1)):
    arrays = (None if x is None else tf.constant(x) for x in (learner, reference, VALID))
    return select_by_loss(of_spec, *arrays, tf.constant(seed))


@pytest.mark.parametrize("criterion", SCORES)
def test_top_k_is_a_sort_of_the_valid_rows(criterion):
    half = criterion == "half_learnability"
    fields = {"learner_weight": 0.5} if half else {"criterion": criterion}
    selection = chosen(spec(policy="independent_top_k", **fields))
    score = np.where(VALID, SCORES[criterion], -np.inf)
    assert selection.positions.numpy().tolist() == np.argsort(-score)[:SUB_BATCH].tolist()
    best = np.sort(score)[::-1][:SUB_BATCH]
    np.testing.assert_allclose(selection.metrics["chosen_score"], best.mean(), rtol=1e-5)
    pool = SCORES[criterion][VALID].mean()
    np.testing.assert_allclose(selection.metrics["pool_score"], pool, rtol=1e-4)
    assert selection.n_candidates == VALID.sum()


def test_draws_have_the_probabilities_of_sampling_without_replacement():
    of_spec = spec(policy="independent_sampled", sub_batch=2, temperature=0.7)
    p = np.where(VALID, np.exp(SCORES["learnability"] / 0.7), 0.0)
    p /= p.sum()
    expected = np.zeros([B])
    for i, j in itertools.permutations(range(B), 2):
        expected[[i, j]] += p[i] * p[j] / (1 - p[i])
    n = 4000
    rows = tf.constant(LEARNER), tf.constant(REFERENCE), tf.constant(VALID)
    step = tf.function(lambda seed: select_by_loss(of_spec, *rows, seed).positions, autograph=False)
    drawn = np.concatenate([step(tf.constant([5, i])).numpy() for i in range(n)])
    found = np.bincount(drawn, minlength=B) / n
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(0.25 / n))


def test_joint_warns_and_draws_as_independent_sampled():
    joint = spec(policy="joint")
    with pytest.warns(UserWarning, match="joint selection is independent selection"):
        selection = chosen(joint)
    independent = chosen(dataclasses.replace(joint, policy="independent_sampled"))
    assert selection.positions.numpy().tolist() == independent.positions.numpy().tolist()


def test_a_row_whose_loss_is_not_finite_is_no_candidate():
    learner = LEARNER.copy()
    learner[0] = np.nan
    selection = chosen(spec(policy="independent_top_k"), learner=learner)
    assert selection.n_candidates == VALID.sum() - 1
    assert 0 not in selection.positions.numpy()
    assert np.isfinite(selection.metrics["pool_score"])


def test_uniform_needs_no_loss_and_wrong_losses_are_named():
    assert len(set(chosen(spec(policy="uniform"), None, None).positions.numpy())) == SUB_BATCH
    with pytest.raises(ValueError, match=r"reference_loss is None.*\(12,\)"):
        chosen(spec(), reference=None)
    with pytest.raises(ValueError, match=r"learner_loss is \(3,\)"):
        chosen(spec(policy="independent_top_k"), learner=LEARNER[:3])
    with pytest.raises(UserError, match="sub_batch"):
        spec(sub_batch=B + 1)
