"""Collectives that count what travels."""

import tensorflow as tf

from jest_tf.collectives import Collectives


class CountingCollectives:
    """Another `Collectives`, with the bytes that each replica hands in.

    bytes: per kind of exchange, filled while the calling function is traced; sizes known only at
    run time (the surplus in `gather_picked`) are not in it.
    """

    def __init__(self, inner: Collectives):
        self._inner = inner
        self.rank, self.size, self.in_loops = inner.rank, inner.size, inner.in_loops
        self.bytes = {"all_gather": 0, "all_reduce_sum": 0}

    def all_gather(self, x: tf.Tensor) -> tf.Tensor:
        self._count("all_gather", x)
        return self._inner.all_gather(x)

    def all_reduce_sum(self, x: tf.Tensor) -> tf.Tensor:
        self._count("all_reduce_sum", x)
        return self._inner.all_reduce_sum(x)

    def _count(self, kind, x):
        for tensor in tf.nest.flatten(x):
            if tensor.shape.is_fully_defined():
                self.bytes[kind] += tensor.shape.num_elements() * tensor.dtype.size
