"""A trace is written for the steps asked for, whatever ends them, and for no others."""

import pytest
import tensorflow as tf

from jest_tf.monitoring.profiler import StepProfiler


def traces(folder):
    return list(folder.glob("plugins/profile/*/*.xplane.pb"))


def run(profiler, first_finished, last_finished, folder) -> int:
    """Runs steps one by one; returns after how many finished steps a trace was there."""
    for finished in range(first_finished, last_finished):
        with profiler.around(finished, 1):
            tf.matmul(tf.ones([8, 8]), tf.ones([8, 8]), name="product").numpy()
        if traces(folder):
            return finished + 1
    return 0


def test_the_steps_asked_for_are_traced_and_hold_their_ops(tmp_path):
    assert run(StepProfiler((2, 3), tmp_path), 0, 5, tmp_path) == 3
    (trace,) = traces(tmp_path)
    assert b"MatMul" in trace.read_bytes()


def test_no_trace_unless_asked_for_or_when_the_run_is_past_it(tmp_path):
    assert run(StepProfiler(None, tmp_path), 0, 3, tmp_path) == 0
    assert run(StepProfiler((2, 3), tmp_path), 3, 5, tmp_path) == 0


def test_a_call_of_many_steps_is_traced_whole_and_an_error_ends_the_trace(tmp_path):
    profiler = StepProfiler((2, 30), tmp_path)
    with pytest.raises(KeyError), profiler.around(0, 10):
        raise KeyError
    assert len(traces(tmp_path)) == 1
    with profiler.around(10, 10):
        assert len(traces(tmp_path)) == 1
    profiler.stop()
    # The folder is named by the second, and both may fall into the same one.
    assert 1 <= len(traces(tmp_path)) <= 2
