"""Words that travel among replicas."""

import numpy as np
import pytest
import tensorflow as tf

from jest_tf.ops.words import from_words, to_words

TYPES = [
    tf.bool, tf.uint8, tf.int16, tf.int32, tf.int64,
    tf.float16, tf.bfloat16, tf.float32, tf.float64,
]  # fmt: skip


@pytest.mark.parametrize("word", [tf.int32, tf.int64])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", [1, 3, 8])
def test_words_keep_every_type(dtype, word, width):
    values = np.random.default_rng(width).integers(-1000, 1000, [2, width, 2])
    x = tf.cast(tf.constant(values), dtype)
    words = to_words(x, word)
    assert words.dtype == word and words.shape.rank == 2
    back = from_words(tf.concat([words, words], axis=0), x)
    assert back.dtype == dtype and back.shape == [4, width, 2]
    assert tf.reduce_all(back == tf.concat([x, x], axis=0))
