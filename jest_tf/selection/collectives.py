"""How replicas talk during selection. The local form is the identity."""

from typing import Protocol

import tensorflow as tf


class Collectives(Protocol):
    """The two exchanges that selection needs, among `size` replicas.

    rank: this replica's index, a Python int or an int32 scalar tensor. size: a Python int.
    in_loops: whether the exchanges may be called inside a `tf.while_loop`.
    """

    rank: int | tf.Tensor
    size: int
    in_loops: bool

    def all_gather(self, x: tf.Tensor) -> tf.Tensor:
        """[k, ...] of every replica -> [size * k, ...] in rank order, the same everywhere."""

    def all_reduce_sum(self, x: tf.Tensor) -> tf.Tensor:
        """The sum over replicas of `x`, the same everywhere, bit for bit."""


class LocalCollectives:
    """One replica: nothing travels."""

    rank = 0
    size = 1
    in_loops = True

    def all_gather(self, x: tf.Tensor) -> tf.Tensor:
        return x

    def all_reduce_sum(self, x: tf.Tensor) -> tf.Tensor:
        return x


LOCAL = LocalCollectives()


class CountingCollectives:
    """Another `Collectives`, with the bytes that each replica hands in.

    bytes: payload per kind of exchange, filled while the calling function is traced; sizes known
    only at run time (the surplus in `gather_picked`) are not in it.
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
