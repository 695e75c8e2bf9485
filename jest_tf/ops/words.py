"""Rows of any type as integers that replicas can sum, and back; sums with zeros are exact."""

from typing import NamedTuple

import tensorflow as tf

# Summed as they are, with a gradient; anything else travels as integers.
FLOATS = (tf.float32, tf.bfloat16, tf.float16, tf.float64)


def summed_word(in_loops: bool) -> tf.DType:
    """The integer type that replicas sum; in_loops: see `jest_tf.collectives.Collectives`.

    GPUs sum 64-bit integers on the device, and 32-bit ones on the host; TPUs, whose loops hold the
    exchanges, sum 32 bits at most.
    """
    return tf.int32 if in_loops else tf.int64


class Spread(NamedTuple):
    """An all-gather as a sum: each replica fills its own rows of a buffer of zeros."""

    rank: int | tf.Tensor
    size: int
    word: tf.DType  # the integer type that travels, see `summed_word`

    def of(self, x: tf.Tensor) -> tf.Tensor:
        """[k, ...] of this replica -> [size, k, ...], what it hands in."""
        rows = x if x.dtype in FLOATS else to_words(x, self.word)
        mine = tf.reshape(tf.range(self.size) == self.rank, [self.size] + [1] * rows.shape.rank)
        # Not a product: NaN in one replica's rows would reach all others.
        return tf.where(mine, rows[None], tf.zeros([], rows.dtype))

    def joined(self, summed: tf.Tensor, dtype: tf.DType, shape: tuple[int, ...]) -> tf.Tensor:
        """The sum over replicas -> [size * k, ...] in rank order, of `dtype`; shape: [k, ...]."""
        rows = tf.reshape(summed, [self.size * shape[0], *summed.shape[2:]])
        return rows if dtype in FLOATS else from_words(rows, tf.TensorSpec(shape, dtype))


def to_words(rows: tf.Tensor, word: tf.DType) -> tf.Tensor:
    """[k, ...] of any type of at most 8 bytes -> int32 or int64 [k, words]."""
    flat = tf.reshape(rows, [tf.shape(rows)[0], rows.shape[1:].num_elements()])
    if flat.dtype == tf.bool:
        flat = tf.cast(flat, tf.uint8)
    if flat.dtype.size == 8:
        flat = flat if flat.dtype == tf.int64 else tf.bitcast(flat, tf.int64)
        if word == tf.int64:
            return flat
        high = tf.cast(tf.bitwise.right_shift(flat, 32), tf.int32)
        return tf.concat([high, tf.cast(flat, tf.int32)], axis=1)  # The cast keeps the low half.
    per_word = word.size // flat.dtype.size
    if per_word == 1:
        return tf.bitcast(flat, word)
    flat = tf.pad(flat, [[0, 0], [0, -flat.shape[1] % per_word]])
    packed = tf.reshape(flat, [tf.shape(flat)[0], flat.shape[1] // per_word, per_word])
    return tf.bitcast(tf.bitcast(packed, _integers(packed.dtype, word)), word)


def from_words(words: tf.Tensor, like: tf.Tensor | tf.TensorSpec) -> tf.Tensor:
    """Inverse of `to_words` for any number of rows of the type and shape of `like` [_, ...]."""
    dtype, width = like.dtype, like.shape[1:].num_elements()
    raw = tf.uint8 if dtype == tf.bool else dtype
    if raw.size == 8:
        flat = words
        if words.dtype == tf.int32:
            high, low = tf.split(tf.cast(words, tf.int64), 2, axis=1)
            flat = tf.bitwise.left_shift(high, 32) | tf.bitwise.bitwise_and(low, 0xFFFFFFFF)
        flat = flat if raw == tf.int64 else tf.bitcast(flat, raw)
    else:
        per_word = words.dtype.size // raw.size
        flat = tf.bitcast(words, _integers(raw, words.dtype))
        flat = tf.bitcast(flat, raw)
        flat = tf.reshape(flat, [tf.shape(words)[0], words.shape[1] * per_word])[:, :width]
    return tf.cast(tf.reshape(flat, [tf.shape(words)[0], *like.shape[1:]]), dtype)


def _integers(dtype: tf.DType, word: tf.DType) -> tf.DType:
    """What stands between `dtype` and words: TPUs make 64 bits of 32-bit integers alone."""
    return tf.int32 if word == tf.int64 and dtype.size == 4 else dtype
