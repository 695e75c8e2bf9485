"""Stateless draws: a function of (seed, chunk, global position) and of nothing else.

Adding a standard Gumbel variable to each logit and keeping the m largest is exactly drawing m
without replacement, one after another, with probability proportional to exp(logit).
"""

import tensorflow as tf

_PHILOX = 1
_PHILOX_LANES = 4  # One step of the Philox counter gives four 32-bit words.


def gumbel(seed: tf.Tensor, chunk: tf.Tensor | int, start: tf.Tensor | int, n: int) -> tf.Tensor:
    """Standard Gumbel variables float32 [n] for global positions start … start + n - 1.

    Each depends on (seed int32 [2], chunk, position) alone, not on how rows are shared.
    """
    # Small u are fine-grained: these are the large Gumbels, the ones that decide.
    return -tf.math.log(-tf.math.log1p(-uniform(seed, chunk, start, n)))


def uniform(seed: tf.Tensor, stream: tf.Tensor | int, start: tf.Tensor | int, n: int) -> tf.Tensor:
    """Uniform numbers in (0, 1), float32 [n]; as `gumbel`, whose chunks are streams from 0 on."""
    start = tf.cast(start, tf.int64)
    # Raw bits, because float draws for one seed differ between XLA and plain kernels.
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    offset = tf.stack([tf.cast(x, tf.uint64) for x in (start // _PHILOX_LANES, stream)])
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[n + _PHILOX_LANES], key=key, counter=counter + offset, alg=_PHILOX, dtype=tf.uint32
    )
    bits = tf.slice(bits, [start % _PHILOX_LANES], [n])
    # 32-bit integers to float keep 24 leading bits. Never 0 or 1, so every logarithm is finite.
    return tf.minimum((tf.cast(bits, tf.float32) + 0.5) * 2.0**-32, 1 - 2.0**-24)
