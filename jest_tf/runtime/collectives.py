"""`Collectives` for the replicas of a tf.distribute strategy."""

import tensorflow as tf

from jest_tf.collectives import LOCAL, Collectives


def of_current_strategy() -> Collectives:
    """The collectives of the strategy that is running; call inside `strategy.run`, or anywhere."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return LOCAL if replicas == 1 else ReplicaCollectives()


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
        # One TPU program holds the collectives too. Elsewhere TensorFlow runs them in `merge_call`,
        # unless all devices are GPUs and the step is compiled; a graph loop does not allow that.
        self.in_loops = isinstance(self._context.strategy, tf.distribute.TPUStrategy)
        # MultiWorkerMirroredStrategy takes a gather's destination from the device of its tensor,
        # and a tensor inside a tf.function has none ("destinations can not be empty").
        self._device = None if self.in_loops else self._own_device()

    def all_gather(self, x: tf.Tensor) -> tf.Tensor:
        """[k, ...] of every replica -> [size * k, ...] in rank order."""
        with tf.device(self._device):
            gathered = self._context.all_gather(tf.identity(x), axis=0)
        return tf.ensure_shape(gathered, [self.size * x.shape[0], *x.shape[1:]])

    def all_reduce_sum(self, x: tf.Tensor) -> tf.Tensor:
        """The sum over replicas of `x`."""
        return self._context.all_reduce(tf.distribute.ReduceOp.SUM, x)

    def _own_device(self) -> str:
        local = self._context.strategy.extended.worker_devices
        return local[tf.get_static_value(self.rank) % len(local)]
