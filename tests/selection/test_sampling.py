"""Draws: stateless, independent of layout, and of the exact probabilities."""

import itertools

import numpy as np
import oracle
import pytest
import tensorflow as tf
from scipy import stats

from jest_tf.selection import Embeddings, SelectionSpec, select
from jest_tf.selection.draw import gumbel

SEED = tf.constant([17, 3])


def test_draws_are_standard_gumbels():
    draws = tf.function(gumbel, jit_compile=True)(SEED, 0, 0, 200_000).numpy()
    assert np.isfinite(draws).all()
    assert stats.kstest(draws, "gumbel_r").pvalue > 1e-3


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_replica_draws_its_own_rows_of_the_global_draw(jit_compile):
    whole = tf.function(gumbel, jit_compile=True)(SEED, 2, 0, 100).numpy()
    part = tf.function(gumbel, jit_compile=jit_compile)
    for start in (0, 1, 4, 25, 50, 99 - 24):  # Aligned to Philox's four words, and not.
        rows = part(SEED, tf.constant(2), tf.constant(start), 25).numpy()
        np.testing.assert_allclose(rows, whole[start : start + 25], rtol=1e-5, atol=1e-6)


def test_seed_step_and_chunk_all_matter():
    draws = [
        gumbel(tf.constant(seed), chunk, 0, 64).numpy()
        for seed, chunk in (([1, 1], 0), ([2, 1], 0), ([1, 2], 0), ([1, 1], 1), ([1, 1], 2))
    ]
    for one, other in itertools.combinations(draws, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.5


def ordered_picks(spec, learner, reference, n_draws):
    """[n_draws, b] picks for n_draws steps."""
    everyone = tf.ones([spec.super_batch], tf.bool)
    models = [
        Embeddings(**{name: tf.constant(value) for name, value in model.items()})
        for model in (learner, reference)
    ]

    @tf.function(jit_compile=True, autograph=False)
    def run():
        def step(i):
            return select(spec, *models, everyone, tf.stack([5, i])).positions

        return tf.map_fn(step, tf.range(n_draws), fn_output_signature=tf.int32)

    return run().numpy()


@pytest.mark.parametrize(
    "policy, n_chunks", [("independent_sampled", 1), ("joint", 1), ("joint", 2), ("uniform", 1)]
)
def test_frequencies_are_the_sequential_sampling_probabilities(policy, n_chunks):
    """Every ordered outcome of drawing 2 of 5 without replacement, chi-square."""
    rng = np.random.default_rng(8)
    learner = oracle.random_model(rng, 5, 6, 4.0, -1.0)
    reference = oracle.random_model(rng, 5, 6, 4.0, -1.0)
    spec = SelectionSpec(5, 2, policy=policy, n_chunks=n_chunks)
    n_draws = 20_000
    picks = ordered_picks(spec, learner, reference, n_draws)

    def probability(i, j):
        logits = [
            oracle.candidate_logits("sigmoid", "learnability", learner, reference, picked)
            for picked in ([], [i] if n_chunks == 2 else [])
        ]
        first, second = np.exp(np.zeros([2, 5]) if policy == "uniform" else logits)
        return first[i] / first.sum() * second[j] / (second.sum() - second[i])

    outcomes = list(itertools.permutations(range(5), 2))
    counts = [np.sum((picks == outcome).all(1)) for outcome in outcomes]
    expected = n_draws * np.array([probability(i, j) for i, j in outcomes])
    assert sum(counts) == n_draws
    assert stats.chisquare(counts, expected).pvalue > 1e-3
