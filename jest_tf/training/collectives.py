"""`Collectives` for the replicas of a tf.distribute strategy."""

import tensorflow as tf


class ReplicaCollectives:
    """Exchanges among the replicas of the current strategy.

    Build it inside `strategy.run`: it belongs to one replica. Works under MirroredStrategy,
    MultiWorkerMirroredStrategy and TPUStrategy. Gradients flow through both exchanges.

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

    def all_gather(self, x: tf.Tensor) -> tf.Tensor:
        """[k, ...] of every replica -> [size * k, ...] in rank order."""
        # MultiWorkerMirroredStrategy takes the destination from the device of the tensor, which
        # has none inside a tf.function ("destinations can not be empty").
        device = None if self.in_loops else tf.nest.flatten(self._context.devices)[0]
        with tf.device(device):
            gathered = self._context.all_gather(tf.identity(x), axis=0)
        return tf.ensure_shape(gathered, [self.size * x.shape[0], *x.shape[1:]])

    def all_reduce_sum(self, x: tf.Tensor) -> tf.Tensor:
        """The sum over replicas of `x`."""
        return self._context.all_reduce(tf.distribute.ReduceOp.SUM, x)
