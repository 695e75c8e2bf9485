"""Decoding within bounds, resizing on the device."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from jest_tf.data import preprocess

rng = np.random.default_rng(0)


def encode(pixels, kind, **kwargs) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **kwargs)
    return out.getvalue()


def smooth(h, w) -> np.ndarray:
    """A picture without high frequencies, so that lossy formats change little."""
    y, x = np.mgrid[0:h, 0:w] / max(h, w)
    return np.stack([255 * y, 255 * x, 127 + 100 * np.sin(6 * (x + y))], -1).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("h, w", [(16, 16), (40, 24)])
def test_formats_agree_with_pil(kind, h, w):
    pixels = smooth(h, w)
    encoded = encode(pixels, kind)
    image, ok = preprocess.decode(tf.constant(encoded), 16)
    read = Image.open(io.BytesIO(encoded)).convert("RGB")
    truth = np.asarray(read.resize((16, 16), Image.Resampling.BILINEAR))
    assert ok and image.dtype == tf.uint8
    assert abs(image.numpy().astype(int) - truth).mean() < 3


def test_a_large_jpeg_decoded_at_a_fraction_looks_like_the_full_one():
    pixels = smooth(512, 400)
    jpeg = encode(pixels, "JPEG", quality=95)
    for size in (224, 112, 56, 28):
        image, ok = preprocess.decode(tf.constant(jpeg), size)
        truth = tf.image.resize(tf.io.decode_jpeg(jpeg), [size, size], antialias=True).numpy()
        assert ok and abs(image.numpy() - truth).mean() < 1.5


@pytest.mark.parametrize("h, w", [(40, 24), (300, 280), (29, 33), (23, 90), (500, 31), (2, 7)])
def test_pixels_are_the_antialiased_ones_up_to_rounding(h, w):
    """Noise is where a filter that is a little too narrow or one pixel off shows most."""
    pixels = rng.integers(0, 256, (h, w, 3), np.uint8)
    channels = [Image.fromarray(pixels[..., c].astype(np.float32)) for c in range(3)]
    truth = [np.asarray(c.resize((28, 28), Image.Resampling.BILINEAR)) for c in channels]
    image, ok = preprocess.decode(tf.constant(encode(pixels, "PNG")), 28)
    assert ok
    np.testing.assert_allclose(image, np.stack(truth, -1), atol=0.501)


def png_header(h: int, w: int) -> bytes:
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html><html></html>",
        b"\xff\xd8",
        encode(smooth(1, 1), "PNG"),
        encode(smooth(1, 64), "JPEG"),
        png_header(10_000, 10_000),
        png_header(2**31 - 1, 2**31 - 1),
        png_header(2**32 - 1, 2**32 - 1),
        png_header(2, 2**25),
        b"GIF89a" + struct.pack("<HH", 60_000, 60_000),
        b"BM" + bytes(16) + struct.pack("<II", 40_000, 40_000),
    ],
    ids=[
        "empty",
        "html",
        "two bytes",
        "1x1",
        "1x64",
        "bomb",
        "2^31",
        "2^32",
        "long",
        "gif bomb",
        "bmp bomb",
    ],
)
def test_what_is_no_picture_is_refused_by_its_header(content):
    image, ok = preprocess.decode(tf.constant(content), 8)
    assert not ok and image.shape == (8, 8, 3) and not image.numpy().any()


def test_a_jpeg_of_100_megapixels_is_refused_by_its_header():
    jpeg = bytearray(encode(smooth(16, 16), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 10_000, 10_000)
    assert not preprocess.decode(tf.constant(bytes(jpeg)), 8)[1]


def test_unusual_pictures_are_read():
    cmyk = io.BytesIO()
    Image.fromarray(smooth(32, 32)).convert("CMYK").save(cmyk, "JPEG", quality=95)
    deep = io.BytesIO()
    Image.fromarray((np.arange(32 * 32).reshape(32, 32) * 60).astype(np.uint16)).save(deep, "PNG")
    frames = [Image.fromarray(smooth(32, 32)), Image.fromarray(255 - smooth(32, 32))]
    animated = io.BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    for content, tolerance in ((cmyk, 6), (animated, 8)):
        image, ok = preprocess.decode(tf.constant(content.getvalue()), 32)
        assert ok and abs(image.numpy().astype(int) - smooth(32, 32)).mean() < tolerance
    image, ok = preprocess.decode(tf.constant(deep.getvalue()), 32)
    assert (
        ok
        and abs(image.numpy()[..., 0].astype(int).ravel() - np.arange(1024) * 60 // 256).max() <= 1
    )


def test_a_cut_file_raises_in_graph():
    jpeg = encode(rng.integers(0, 256, (64, 64, 3), np.uint8), "JPEG")
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocess.decode(tf.constant(jpeg[: len(jpeg) // 2]), 8)


@pytest.mark.parametrize("size_in, size_out", [(64, 48), (64, 16), (37, 23), (16, 40), (48, 48)])
def test_resize_equals_the_antialiased_resize_and_compiles(size_in, size_out):
    images = rng.integers(0, 256, (2, size_in, size_in + 3, 3), np.uint8)
    truth = tf.image.resize(images, [size_out, size_out], antialias=True)
    compiled = tf.function(lambda x: preprocess.resize(x, size_out), jit_compile=True)
    np.testing.assert_allclose(preprocess.resize(images, size_out), truth, atol=2e-3)
    np.testing.assert_allclose(compiled(images), truth, atol=2e-3)


def test_to_model_range():
    pixels = tf.constant([0, 127, 255], tf.uint8)
    np.testing.assert_allclose(preprocess.to_model_range(pixels), [-1, -0.00392157, 1], atol=1e-6)


def test_a_frame_larger_than_its_animation_is_refused_by_its_header():
    frames = [Image.fromarray(smooth(32, 32)), Image.fromarray(255 - smooth(32, 32))]
    moving = io.BytesIO()
    frames[0].save(moving, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    content = bytearray(moving.getvalue())
    at = content.index(b"VP8L") + 9
    content[at : at + 4] = b"\xff\xff\xff\x0f"  # 16,384 x 16,384
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocess.decode(tf.constant(bytes(content)), 8)
    image, ok = preprocess.decode(tf.constant(moving.getvalue()), 32)
    assert ok and abs(image.numpy().astype(int) - smooth(32, 32)).max() <= 1
