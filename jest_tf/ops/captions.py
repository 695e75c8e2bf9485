"""Rows that share a caption are no negatives of each other (`same_caption = ignore`).

Pair terms of selection and losses leave such pairs out, by a hash: no matrix over the batch.
"""

import numpy as np
import tensorflow as tf

# The logit of a pair that is left out: exp and softplus of it are 0, and sums of it stay finite.
IGNORED = -1e38


@tf.function(jit_compile=True, autograph=False)
def caption_hash(tokens: tf.Tensor) -> tf.Tensor:
    """Tokens int32 [n, L] -> float32 [n, 2]: 48 bits as two whole numbers below 2^24.

    Every backend sums and compares these exactly. Two captions meet by accident once in 2^48 pairs:
    at b = 32,768 of B = 163,840, every 50,000 steps.
    """
    multipliers = np.random.default_rng(0).integers(0, 2**32, [tokens.shape[1], 2], np.uint32)
    products = tokens[:, :, None] * multipliers.view(np.int32)  # wraps, modulo 2^32
    sums = tf.bitcast(tf.reduce_sum(products, axis=1), tf.uint32)
    return tf.cast(tf.bitwise.right_shift(sums, tf.constant(8, tf.uint32)), tf.float32)


def same_caption(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Hashes [..., k, 2] and [m, 2] -> bool [..., k, m]."""
    low, high = (rows[..., i, None] == columns[:, i] for i in range(2))
    return low & high
