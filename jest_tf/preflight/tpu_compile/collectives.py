"""Real XLA collectives over `size` replicas, for a program that is compiled but never run."""

from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

from jest_tf.runtime.collectives import SummingCollectives

# What TPUs reduce. TPUStrategy refuses the rest as well, but only on a TPU.
REDUCIBLE = (tf.float32, tf.bfloat16, tf.float16, tf.int32, tf.uint32)


class CompiledCollectives(SummingCollectives):
    """Collectives of one program lowered for all replicas; `rank` is the chip's."""

    in_loops, word = True, tf.int32

    def __init__(self, size: int):
        self.size = size
        self.rank = tf.cast(gen_xla_ops.xla_replica_id(), tf.int32)

    def _sum(self, x: Any) -> Any:
        """Of each tensor in a nest. TypeError: a type that TPUs cannot sum."""
        return tf.nest.map_structure(self._sum_one, x)

    def _sum_one(self, x: tf.Tensor) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        if x.dtype not in REDUCIBLE:
            names = ", ".join(t.name for t in REDUCIBLE)
            raise TypeError(f"all_reduce_sum of {x.dtype.name} {x.shape}: TPUs sum only {names}")

        @tf.custom_gradient
        def summed(x):
            return self._all_reduce(x), self._all_reduce

        return summed(x)

    def _all_reduce(self, x: tf.Tensor) -> tf.Tensor:
        everyone = tf.constant([list(range(self.size))], tf.int32)
        return gen_xla_ops.xla_all_reduce(x, everyone, reduce_op="Add", mode="CrossReplica")
