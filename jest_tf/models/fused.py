"""GELU and layer normalisation as single passes over memory, forward and backward.

Outside XLA each of their five to ten element-wise operations would read and write the whole
activation: more than the matrix products of a small tower. So both passes are written out and
compiled as one kernel each; within a compiled step they are inlined.
"""

import ctypes
import functools
import math
import os
import pathlib
from collections.abc import Callable

import tensorflow as tf

# TensorFlow 2.20's first XLA program logs two lines through Abseil, which does not read this
# variable: it is told here, where XLA begins.
_LEVEL = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0")
_SET_LEVEL = "_ZN4absl12lts_2025012714SetMinLogLevelENS0_18LogSeverityAtLeastE"
if _LEVEL.isdecimal() and int(_LEVEL):
    try:
        _library = ctypes.CDLL(str(pathlib.Path(tf.__file__).parent / "libtensorflow_cc.so.2"))
        getattr(_library, _SET_LEVEL)(min(int(_LEVEL), 3))
    except (OSError, AttributeError):  # another build of TensorFlow: the two lines stay
        pass

# gelu(x) = x·sigmoid(2·sqrt(2/π)·(x + 0.044715·x³)), the tanh form with tanh written as a sigmoid.
_LINEAR = 2.0 * math.sqrt(2.0 / math.pi)
_CUBIC = _LINEAR * 0.044715

EPSILON = 1e-6  # of the variance, as in SigLIP


def compiled(function: Callable) -> Callable:
    """`function` of tensors as an XLA kernel: one program for each set of shapes and dtypes."""

    @functools.cache
    def program(*signature: tuple) -> Callable:
        del signature
        # A partial has no code object, so TensorFlow does not take the programs for retraces of
        # one function and warn about their number.
        return tf.function(functools.partial(function), jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*tensors: tf.Tensor):
        return program(*((tuple(x.shape), x.dtype) for x in tensors))(*tensors)

    return call


@compiled
def _gelu(x: tf.Tensor) -> tf.Tensor:
    return x * tf.sigmoid(x * (_LINEAR + _CUBIC * tf.square(x)))


@compiled
def _gelu_gradient(x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
    square = tf.square(x)
    gate = tf.sigmoid(x * (_LINEAR + _CUBIC * square))
    slope = _LINEAR + 3.0 * _CUBIC * square
    return dy * gate * (1.0 + x * (1.0 - gate) * slope)


@tf.custom_gradient
def gelu(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """Tanh-approximated GELU, in the dtype of `x`, which alone is kept for the backward pass."""
    return _gelu(x), lambda dy: _gelu_gradient(x, dy)


@compiled
def _normalise(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    wide = tf.cast(x, tf.float32)
    mean = tf.reduce_mean(wide, axis=-1, keepdims=True)
    centred = wide - mean
    inverse = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True) + EPSILON)
    return tf.cast(centred * inverse * gamma + beta, x.dtype), mean, inverse


@compiled
def _normalise_gradient(
    x: tf.Tensor, gamma: tf.Tensor, mean: tf.Tensor, inverse: tf.Tensor, dy: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    unit = (tf.cast(x, tf.float32) - mean) * inverse
    dy = tf.cast(dy, tf.float32)
    dunit = dy * gamma
    along = tf.reduce_mean(dunit * unit, axis=-1, keepdims=True)
    dx = inverse * (dunit - tf.reduce_mean(dunit, axis=-1, keepdims=True) - unit * along)
    rows = list(range(x.shape.rank - 1))
    return tf.cast(dx, x.dtype), tf.reduce_sum(dy * unit, rows), tf.reduce_sum(dy, rows)


@tf.custom_gradient
def layer_norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """`x` [..., width] normalised over its last axis; `gamma`, `beta` and statistics float32."""
    y, mean, inverse = _normalise(x, gamma, beta)
    return y, lambda dy: _normalise_gradient(x, gamma, mean, inverse, dy)
