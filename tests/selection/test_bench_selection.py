"""The bench compares like with like, and its memory measure sees memory."""

import numpy as np
import pytest
import tensorflow as tf

from jest_tf.bench.dense_listing import dense_listing
from jest_tf.bench.selection import SEED, random_models
from jest_tf.bench.timing import fastest, peak_extra_bytes
from jest_tf.selection import SelectionSpec, select


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_dense_listing_and_select_pick_the_same(loss):
    spec = SelectionSpec(160, 32, loss=loss, n_chunks=4)
    models, seed = random_models(160, 16), tf.constant(SEED)
    ours = select(spec, *models, tf.ones([160], tf.bool), seed).positions
    np.testing.assert_array_equal(ours, dense_listing(spec, *models, seed))


def test_peak_memory_sees_what_is_allocated_and_freed():
    def program():
        return np.ones(2**24, np.float32).sum()  # 64 MiB

    assert 60 * 2**20 < peak_extra_bytes(program) < 200 * 2**20


def test_fastest_times_each_program_the_asked_number_of_times():
    calls = []
    programs = {name: lambda name=name: calls.append(name) for name in "ab"}
    assert set(fastest(programs, repeats=3)) == {"a", "b"}
    assert calls == ["a", "b"] * 4  # One call each to compile.
