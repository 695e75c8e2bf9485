"""The hand-written GELU and layer normalisation against autodiff of their definitions."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from jest_tf.models.fused import gelu, layer_norm


def _value_and_gradients(function, *inputs):
    dy = np.random.default_rng(9).standard_normal(inputs[0].shape).astype(np.float32)
    inputs = [tf.constant(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
    return [y, *tape.gradient(y, inputs, output_gradients=tf.constant(dy))]


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_gelu_equals_keras():
    x = 3 * _normal(7, 5, 16)
    ours = _value_and_gradients(gelu, x)
    truth = _value_and_gradients(lambda x: keras.activations.gelu(x, approximate=True), x)
    for mine, true in zip(ours, truth, strict=True):
        np.testing.assert_allclose(mine, true, atol=1e-5)


def test_gelu_has_finite_gradients_far_from_zero():
    x = np.array([-1e4, -50.0, 0.0, 50.0, 1e4], np.float32)
    y, gradient = _value_and_gradients(gelu, x)
    assert np.all(np.isfinite(y)) and np.all(np.isfinite(gradient))


@pytest.mark.parametrize("shape", [(6, 16), (4, 5, 16)])
def test_layer_norm_equals_keras(shape):
    x = 2 + 3 * _normal(*shape)
    gamma, beta = _normal(16, seed=1), _normal(16, seed=2)
    keras_layer = keras.layers.LayerNormalization(epsilon=1e-6)
    keras_layer.build((None, 16))

    def definition(x, gamma, beta):
        mean, variance = tf.nn.moments(x, axes=-1, keepdims=True)
        return (x - mean) / tf.sqrt(variance + 1e-6) * gamma + beta

    ours = _value_and_gradients(layer_norm, x, gamma, beta)
    for mine, true in zip(ours, _value_and_gradients(definition, x, gamma, beta), strict=True):
        np.testing.assert_allclose(mine, true, rtol=1e-4, atol=1e-4)
    keras_layer.set_weights([gamma, beta])
    np.testing.assert_allclose(ours[0], keras_layer(x), atol=1e-5)
