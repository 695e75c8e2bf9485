"""`Collectives` for the replicas of a tf.distribute strategy.

An all-gather is the sum of buffers in which each replica fills its own rows. All shapes are static,
so one implementation serves every backend, and the TPU compile gate too.
"""

import abc
from typing import Any

import tensorflow as tf

from jest_tf.collectives import LOCAL, TILE_VALUES, Collectives
from jest_tf.ops.words import Spread, summed_word


def of_current_strategy() -> Collectives:
    """The collectives of the strategy that is running; call inside `strategy.run`, or anywhere."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return LOCAL if replicas == 1 else ReplicaCollectives()


class SummingCollectives(abc.ABC):
    """Both exchanges by one sum over replicas, which a subclass gives. Gradients flow through both.

    word: see `Spread`.
    """

    rank: int | tf.Tensor
    size: int
    in_loops: bool
    word: tf.DType = tf.int64

    def all_gather(self, x: tf.Tensor) -> tf.Tensor:
        """[k, ...] of every replica -> [size * k, ...] in rank order."""
        spread = self.spread
        summed = self.all_reduce_sum(_spread(spread, x))
        return _joined(spread, summed, x.dtype, tuple(x.shape))

    @property
    def spread(self) -> Spread:
        """How rows of this replica become a part of a sum."""
        return Spread(self.rank, self.size, self.word)

    @abc.abstractmethod
    def all_reduce_sum(self, x: Any) -> Any:
        """The sum over replicas of each tensor in the nest `x`."""


@tf.function(jit_compile=True, autograph=False)
def _spread(spread: Spread, x: tf.Tensor) -> tf.Tensor:
    return spread.of(x)


@tf.function(jit_compile=True, autograph=False)
def _joined(spread: Spread, summed: tf.Tensor, dtype: tf.DType, shape: tuple) -> tf.Tensor:
    return spread.joined(summed, dtype, shape)


class ReplicaCollectives(SummingCollectives):
    """Exchanges among the replicas of the current strategy (mirrored, multi-worker, TPU).

    Build it inside `strategy.run`: it belongs to one replica. RuntimeError: no replica context.
    """

    def __init__(self, tile_values: int = TILE_VALUES):
        self.tile_values = tile_values
        self._context = tf.distribute.get_replica_context()
        if self._context is None:
            raise RuntimeError("ReplicaCollectives must be built inside strategy.run")
        self.rank = tf.convert_to_tensor(self._context.replica_id_in_sync_group)
        self.size = self._context.num_replicas_in_sync
        # One TPU program holds the collectives too. Elsewhere they meet in `merge_call`, which a
        # graph loop does not allow.
        strategy = self._context.strategy
        self.in_loops = isinstance(strategy, tf.distribute.TPUStrategy)
        self.word = summed_word(self.in_loops)
        is_one_machine = isinstance(strategy, tf.distribute.MirroredStrategy)
        devices = strategy.extended.worker_devices if is_one_machine else ()
        self.pads = is_one_machine and all("GPU" in name for name in devices)

    def all_reduce_sum(self, x: Any) -> Any:
        return self._context.all_reduce(tf.distribute.ReduceOp.SUM, x)
