"""`Collectives` for the replicas of a tf.distribute strategy.

An all-gather is the sum of buffers in which each replica fills its own rows. All shapes are static,
so one implementation serves every backend, and the TPU compile gate too.
"""

import abc
from typing import Any

import tensorflow as tf

from jest_tf.collectives import LOCAL, Collectives
from jest_tf.ops.words import from_words, to_words

# Summed as they are, with a gradient; anything else travels as integers.
FLOATS = (tf.float32, tf.bfloat16, tf.float16, tf.float64)


def of_current_strategy() -> Collectives:
    """The collectives of the strategy that is running; call inside `strategy.run`, or anywhere."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return LOCAL if replicas == 1 else ReplicaCollectives()


class SummingCollectives(abc.ABC):
    """Both exchanges by one sum over replicas, which a subclass gives. Gradients flow through both.

    word: the integer type that travels. GPUs sum 64-bit integers on the device, and 32-bit ones on
    the host; TPUs sum 32 bits at most.
    """

    rank: int | tf.Tensor
    size: int
    in_loops: bool
    word: tf.DType = tf.int64

    def all_gather(self, x: tf.Tensor) -> tf.Tensor:
        """[k, ...] of every replica -> [size * k, ...] in rank order."""
        rows = x if x.dtype in FLOATS else to_words(x, self.word)
        mine = tf.reshape(tf.range(self.size) == self.rank, [self.size] + [1] * rows.shape.rank)
        # Not a product: NaN in one replica's rows would reach all others.
        buffer = tf.where(mine, rows[None], tf.zeros([], rows.dtype))
        summed = tf.reshape(self._sum(buffer), [self.size * x.shape[0], *rows.shape[1:]])
        return summed if x.dtype in FLOATS else from_words(summed, x)

    def all_reduce_sum(self, x: Any) -> Any:
        """The sum over replicas of each tensor in the nest `x`."""
        return self._sum(x)

    @abc.abstractmethod
    def _sum(self, x: Any) -> Any:
        """The sum over replicas of each tensor in the nest `x`."""


class ReplicaCollectives(SummingCollectives):
    """Exchanges among the replicas of the current strategy.

    Build it inside `strategy.run`: it belongs to one replica. Works under MirroredStrategy,
    MultiWorkerMirroredStrategy and TPUStrategy.

    Raises:
      RuntimeError: there is no replica context.
    """

    def __init__(self):
        self._context = tf.distribute.get_replica_context()
        if self._context is None:
            raise RuntimeError("ReplicaCollectives must be built inside strategy.run")
        self.rank = tf.convert_to_tensor(self._context.replica_id_in_sync_group)
        self.size = self._context.num_replicas_in_sync
        # One TPU program holds the collectives too. Elsewhere they meet in `merge_call`, which a
        # graph loop does not allow.
        self.in_loops = isinstance(self._context.strategy, tf.distribute.TPUStrategy)
        self.word = tf.int32 if self.in_loops else tf.int64

    def _sum(self, x: Any) -> Any:
        return self._context.all_reduce(tf.distribute.ReduceOp.SUM, x)
