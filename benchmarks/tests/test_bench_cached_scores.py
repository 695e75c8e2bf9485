"""Scores from a cache: within the bound that follows from rounding, and nowhere near it by luck."""

import dataclasses

import numpy as np
import pytest
from small_run import small_run

from benchmarks import cached_scores
from jest_tf.data.sources import open_source
from jest_tf.selection import SelectionSpec
from jest_tf.training.cache_fill import cache_of_run
from jest_tf.training.run.restore import load_workdir


def test_cached_scores_are_those_of_the_reference(tmp_path):
    run = load_workdir(str(small_run(tmp_path, steps=(10,))))
    manifest = open_source(str(tmp_path / "data.json"))
    spec = SelectionSpec(8, 4, n_chunks=2)
    errors = [0.0]
    for dtype in ("float16", "bfloat16"):
        folder = str(tmp_path / dtype)
        cache = cache_of_run(run, manifest, folder, dtype=dtype, batch_size=8).finish()
        found = cached_scores.compare(run, manifest, cache, spec, n_steps=1)
        bound = cached_scores.tolerance(cache.scale, dtype)
        assert errors[-1] < found["largest_logit_error"] <= bound
        errors.append(found["largest_logit_error"])
        assert found["picks_shared"] >= 0.75
    other = dataclasses.replace(run, model=load_other(run))
    assert cached_scores.compare(other, manifest, cache, spec, 1)["largest_logit_error"] > bound


def load_other(run):
    """The same model with other weights: a cache of it would be a mistake that must show."""
    run.config.seed = 77
    return cached_scores.build_model(run.config, run.tokenizer.vocab_size)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_bound_holds_for_any_unit_vectors(dtype):
    import tensorflow as tf

    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(200, 64)) for _ in range(2))
    y[:100] = x[:100] + 0.1 * y[:100]  # nearly equal pairs have the largest products
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    stored = [tf.cast(tf.cast(v, tf.float32), dtype).numpy().astype(np.float64) for v in (x, y)]
    error = abs(stored[0] @ stored[1].T - x @ y.T).max()
    assert 0 < error <= cached_scores.tolerance(1.0, dtype)
