"""What several GPUs would run and exchange, from the graph of the step; nothing runs on a GPU."""

import agreement
import numpy as np
import pytest
import tensorflow as tf
import tiny
from launches import launches
from tensorflow.python.framework import kernels

from jest_tf.runtime.collectives import ReplicaCollectives
from jest_tf.selection import SelectionSpec

CHUNKS = 16  # of the paper; widths and blocks change no count, see below
# What an exchange among GPUs is made of, besides the compiled programs at its ends.
EXCHANGE_OPS = ("CollectiveReduceV2", "NcclAllReduce", "AddN", "ConcatV2", "StridedSlice")


@pytest.fixture(scope="module")
def step():
    """(graph of the step that two GPUs would run, what its replica 0 hands to each exchange)."""
    return step_of(CHUNKS, tiny.TOWER)


def step_of(n_chunks: int, tower: dict):
    sent = []

    class AsAmongGpus(ReplicaCollectives):
        def __init__(self):
            super().__init__()
            self.pads = True

        def all_reduce_sum(self, x):
            sent.append(tf.nest.flatten(x))
            return super().all_reduce_sum(x)

    spec = SelectionSpec(tiny.SUPER_BATCH, 16, n_chunks=n_chunks)
    towers = {"image": tower, "text": tower}
    model, loop, schedule = tiny.trainer(
        2, spec, sizes=towers, compile_parts=True, collectives=AsAmongGpus
    )
    graph = loop.one_step(schedule.plan(0)).get_concrete_function(next(loop.batches)).graph
    return graph, sent[: len(sent) // 2]


def test_a_step_is_at_most_sixty_launches_a_replica(step):
    graph, _ = step
    for device in ("CPU:0", "CPU:1"):
        found = launches(graph, device)
        assert found.programs >= 2 * CHUNKS, "two programs a chunk, at least"
        assert found.total <= 60, found


def test_blocks_are_no_launches():
    one, two = (launches(step_of(1, tiny.TOWER | {"depth": depth})[0], "CPU:0") for depth in (1, 2))
    assert one == two


def test_an_exchange_is_one_buffer_of_static_shape(step):
    _, sent = step
    assert all(len(buffers) == 1 and buffers[0].shape.is_fully_defined() for buffers in sent)
    # Two a chunk; then totals, the two rounds of picked images, embeddings, gradients, ids.
    assert len(sent) == 2 * CHUNKS + 6


def test_whatever_travels_is_summed_on_the_device(step):
    _, sent = step
    types = {buffer.dtype for (buffer,) in sent}
    assert types == {tf.float32, tf.int64}
    for name in EXCHANGE_OPS:
        on_host = {dtype: stays_on_host(name, dtype) for dtype in (*types, tf.int32)}
        assert not any(on_host[dtype] for dtype in types), (name, on_host)
    assert stays_on_host("AddN", tf.int32), "the registry would say so"


def stays_on_host(name: str, dtype: tf.DType) -> bool:
    """Whether no GPU kernel of an op takes `dtype` in device memory, by TensorFlow's registry."""
    for kernel in kernels.get_registered_kernels_for_op(name).kernel:
        allowed = [c.allowed_values.list.type for c in kernel.constraint if c.name == "T"]
        takes = not allowed or any(dtype.as_datatype_enum in values for values in allowed)
        data = {"input", "inputs", "values"}
        if (
            kernel.device_type in ("GPU", "DEFAULT")
            and takes
            and not data & set(kernel.host_memory_arg)
        ):
            return False
    return True


def test_compiled_parts_train_as_the_step_does_without_them():
    runs = []
    for compile_parts in (False, True):
        model, loop, schedule = tiny.trainer(2, clip_norm=0.5, compile_parts=compile_parts)
        results = [loop.run(schedule.plan(step), 1) for step in range(3)]
        runs.append((model, results))
    (expected, plain), (found, compiled) = runs
    for one, other in zip(plain, compiled, strict=True):
        np.testing.assert_array_equal(one.picks, other.picks)
        for name in ("train/loss", "train/gradient_norm"):
            assert other.metrics[name] == pytest.approx(one.metrics[name], rel=1e-5)
    agreement.assert_trained_alike(found, expected, agreement.MANY_STEPS)
