"""The pixel rule: bicubic as Pillow's to a grey level, plain bilinear as TensorFlow's."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from jest_tf.data import preprocess
from jest_tf.model_record import PixelRule

BICUBIC, PLAIN = PixelRule("bicubic"), PixelRule("bilinear", antialias=False)


def picture(height, width):
    small = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height)))


@pytest.mark.parametrize("height, width", [(60, 84), (28, 112), (16, 20)])
def test_bicubic_is_pillows(height, width):
    image = picture(height, width)
    expected = np.asarray(Image.fromarray(image).resize((24, 24), Image.Resampling.BICUBIC))
    found = preprocess.fit(tf.constant(image[None]), 24, BICUBIC)[0].numpy()
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.05


def test_without_antialias_it_is_tensorflows():
    image = tf.constant(picture(60, 84)[None])
    expected = tf.image.resize(image, [24, 24])
    found = preprocess.fit(image, 24, PLAIN)
    assert np.abs(tf.cast(found, tf.float32) - expected).max() <= 0.5 + 1e-3
    np.testing.assert_allclose(preprocess.fit_decoded(image, 24, PLAIN), expected, atol=1e-3)


@pytest.mark.parametrize("rule", [PixelRule(), BICUBIC, PLAIN])
def test_the_device_resizes_as_the_host(rule):
    image = tf.constant(picture(60, 60)[None])
    on_device = tf.clip_by_value(preprocess.resize(image, 24, rule), 0.0, 255.0)
    on_host = preprocess.fit_decoded(image, 24, rule)
    # Bicubic overshoots between the two passes, where Pillow clips and a product does not.
    np.testing.assert_allclose(on_device, on_host, atol=1e-2)


def test_a_margin_is_cut_right_and_below():
    rule = PixelRule("bicubic", margin=6)
    image = tf.constant(picture(60, 84)[None])
    whole = preprocess.fit(image, 30, BICUBIC)
    np.testing.assert_array_equal(preprocess.fit(image, 24, rule), whole[:, :24, :24])
    encoded = tf.io.encode_png(image[0])
    decoded, ok = preprocess.decode(encoded, 24, rule)
    assert bool(ok)
    np.testing.assert_array_equal(decoded, whole[0, :24, :24])
    np.testing.assert_allclose(
        preprocess.fit_decoded(image, 24, rule), whole[:, :24, :24], atol=3.0
    )
    np.testing.assert_array_equal(preprocess.fit_decoded(decoded[None], 24, rule)[0], decoded)
