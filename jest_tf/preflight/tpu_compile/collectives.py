"""Real XLA collectives over `size` replicas, for a program that is compiled but never run."""

import math

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

# What TPUs reduce. TPUStrategy refuses the rest as well, but only on a TPU.
REDUCIBLE = (tf.float32, tf.bfloat16, tf.float16, tf.int32, tf.uint32)


class CompiledCollectives:
    """Collectives of a program lowered once for all replicas, as TPUStrategy lowers them.

    There, an all-gather is the sum of buffers in which each replica fills its own row, and a type
    that cannot be summed goes through all-to-all; here the latter is summed in 32-bit words, which
    moves as much. The program is the same on every replica; `rank` is read from the chip.
    """

    in_loops = True

    def __init__(self, size: int):
        self.size = size
        self.rank = tf.cast(gen_xla_ops.xla_replica_id(), tf.int32)

    def all_gather(self, x: tf.Tensor) -> tf.Tensor:
        """[k, ...] of every replica -> [size * k, ...] in rank order."""
        shape = [self.size * x.shape[0], *x.shape[1:]]
        words, back = as_words(x)
        mine = tf.one_hot(self.rank, self.size, dtype=words.dtype)
        mine = tf.reshape(mine, [self.size] + [1] * words.shape.rank)
        return tf.reshape(back(self.all_reduce_sum(words[None] * mine)), shape)

    def all_reduce_sum(self, x: tf.Tensor) -> tf.Tensor:
        """The sum over replicas of each tensor in the nest `x`.

        Raises:
          TypeError: a type that TPUs cannot sum.
        """
        return tf.nest.map_structure(self._sum, x)

    def _sum(self, x: tf.Tensor) -> tf.Tensor:
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


def as_words(x: tf.Tensor):
    """`x` in a type that can be summed, and the way back for any [..., *shape of the words]."""
    if x.dtype in REDUCIBLE:
        return x, lambda words: words
    if x.dtype == tf.bool:
        return tf.cast(x, tf.int32), lambda words: tf.cast(words, tf.bool)
    if x.dtype.size == 8:
        return tf.bitcast(x, tf.int32), lambda words: tf.bitcast(words, x.dtype)
    per_word = 4 // x.dtype.size
    flat = tf.reshape(x, [-1])
    missing = -flat.shape[0] % per_word
    packed = tf.bitcast(tf.reshape(tf.pad(flat, [[0, missing]]), [-1, per_word]), tf.int32)
    length = math.prod(x.shape)

    def back(words):
        return tf.reshape(tf.bitcast(words, x.dtype), [words.shape[0], -1])[:, :length]

    return packed, back
