"""Pixels: decode on the host, resize on the device."""

import numpy as np
import tensorflow as tf

# A picture of more pixels is refused by its header, before any memory is taken (64 MP: 200 MB).
MAX_PIXELS = 2**26
# So is a long one: a resize makes a picture of this width and the target's height, in float32.
MAX_SIDE = 2**15
# Tracking pixels and broken thumbnails carry no content.
MIN_SIDE = 2
# Up to this size, pictures of one size are resized together.
SMALL_PIXELS = 256 * 256
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_BAD, _JPEG, _WEBP, _OTHER = range(4)


def decode(encoded: tf.Tensor, image_size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes one JPEG, PNG, GIF (first frame), BMP or WebP (string []).

    The picture is resized to a square, antialiased, without keeping its aspect (as SigLIP does).
    JPEGs of at least twice the size are decoded at 1/2, 1/4 or 1/8, which is cheaper.

    Returns:
        (uint8 [S, S, 3], bool []): zeros and False where the header shows that it is no picture of
        MIN_SIDE to MAX_SIDE and MAX_PIXELS. Raises InvalidArgumentError (in graph) where the data
        is corrupt.
    """
    images, ok = decode_batch(encoded[None], image_size)
    return images[0], ok[0]


def decode_batch(encoded: tf.Tensor, image_size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """`decode` for string [c]: (uint8 [c, S, S, 3], bool [c])."""
    kinds, is_png, h, w = _inspect(tf.io.decode_raw(encoded, tf.uint8, fixed_length=32))
    one_image = tf.TensorSpec([image_size, image_size, 3], tf.uint8)

    def any_kind():
        return tf.map_fn(
            lambda item: _decode_one(*item, image_size),
            (encoded, kinds),
            fn_output_signature=(one_image, tf.TensorSpec([], tf.bool)),
        )

    def equal_pngs():
        # No branch and no resize per record: they cost more than decoding a picture of 64 x 64.
        spec = tf.TensorSpec([None, None, 3], tf.uint8)
        images = tf.map_fn(lambda e: tf.io.decode_png(e, 3), encoded, fn_output_signature=spec)
        return fit(images, image_size), tf.ones_like(kinds, tf.bool)

    are_small = h[0] * w[0] <= SMALL_PIXELS
    are_equal = tf.reduce_all(is_png & (kinds != _BAD) & (h == h[0]) & (w == w[0]))
    return tf.cond(are_equal & are_small, equal_pngs, any_kind)


def _inspect(header: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """From the first 32 bytes [c, 32]: kind int32, is PNG bool, height and width int64, all [c].

    The kind is _BAD where the magic number or the size say so. The size of JPEG and WebP stands
    further back: it is 0 here, and judged later.
    """

    def starts(magic: bytes, at: int = 0) -> tf.Tensor:
        expected = tf.constant(list(magic), tf.uint8)
        return tf.reduce_all(header[:, at : at + len(magic)] == expected, -1)

    def number(at: int, n_bytes: int, big_endian: bool) -> tf.Tensor:
        digits = tf.cast(header[:, at : at + n_bytes], tf.int64)
        powers = 256 ** np.arange(n_bytes, dtype=np.int64)
        return tf.reduce_sum(digits * (powers[::-1] if big_endian else powers), -1)

    kind = tf.where(starts(b"\xff\xd8\xff"), _JPEG, _BAD)
    kind = tf.where(starts(b"RIFF") & starts(b"WEBP", 8), _WEBP, kind)
    height = width = tf.zeros_like(kind, tf.int64)
    is_png = starts(PNG_MAGIC)
    for magic, h, w in (
        (PNG_MAGIC, number(20, 4, True), number(16, 4, True)),
        (b"GIF8", number(8, 2, False), number(6, 2, False)),
        (b"BM", number(22, 4, False), number(18, 4, False)),
    ):
        found = starts(magic)
        kind = tf.where(found, tf.where(_sane(h, w), _OTHER, _BAD), kind)
        height, width = tf.where(found, h, height), tf.where(found, w, width)
    return kind, is_png, height, width


def _sane(h: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    shorter, longer = tf.minimum(h, w), tf.maximum(h, w)
    # The sides alone come first: the product of the largest that a header can name overflows.
    return (shorter >= MIN_SIDE) & (longer <= MAX_SIDE) & (h * w <= MAX_PIXELS)


def _decode_one(encoded: tf.Tensor, kind: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """(uint8 [S, S, 3], bool []) of one picture. One resize serves all formats: fewer graphs."""
    black = tf.zeros([size, size, 3], tf.uint8)

    def jpeg():
        h, w = tf.unstack(tf.io.extract_jpeg_shape(encoded)[:2])
        # Reduced decoding must leave at least the target size, or it would blur.
        reduction = tf.minimum(h, w) // size
        branch = tf.cast(reduction >= 2, tf.int32)
        branch += tf.cast(reduction >= 4, tf.int32) + tf.cast(reduction >= 8, tf.int32)
        branch = tf.where(_sane(tf.cast(h, tf.int64), tf.cast(w, tf.int64)), branch, 4)
        ways = [lambda r=r: tf.io.decode_jpeg(encoded, 3, ratio=r) for r in (1, 2, 4, 8)]
        return tf.switch_case(branch, [*ways, lambda: black]), branch < 4

    def webp():
        image = tf.io.decode_webp(encoded, 3)
        image = image[0] if image.shape.rank == 4 else image
        h, w = tf.unstack(tf.shape(image, tf.int64)[:2])
        return image, _sane(h, w)

    def other():
        return tf.io.decode_image(encoded, 3, expand_animations=False), True

    image, ok = tf.switch_case(kind, [lambda: (black, False), jpeg, webp, other])
    return fit(tf.ensure_shape(image, [None, None, 3])[None], size)[0], ok


def fit(images: tf.Tensor, size: int) -> tf.Tensor:
    """uint8 [n, h, w, 3] -> uint8 [n, S, S, 3], antialiased, rounded to the nearest (half up).

    What `tf.image.resize(antialias=True)` gives, up to the order of its sums, but faster on a CPU:
    its kernel sums along the height by whole rows, and along the width one pixel of 3 values after
    the other. Here both sums go by whole rows, with a transposition between.
    """

    def along_height(images):  # [n, h, w, 3] -> float32 [n, S, w, 3]
        n, h, w, _ = tf.unstack(tf.shape(images))
        rows = tf.raw_ops.ScaleAndTranslate(
            images=tf.reshape(images, [n, h, 1, w * 3]),
            size=[size, 1],
            scale=tf.stack([size / tf.cast(h, tf.float32), 1.0]),
            translation=[0.0, 0.0],
            kernel_type="triangle",
            antialias=True,
        )
        return tf.reshape(rows, [n, size, w, 3])

    def resized():
        sides_swapped = along_height(tf.transpose(along_height(images), [0, 2, 1, 3]))
        # The weights are positive and add up to 1: nothing can leave 0..255.
        return tf.transpose(tf.cast(sides_swapped + 0.5, tf.uint8), [0, 2, 1, 3])

    shape = tf.shape(images)
    same = (shape[1] == size) & (shape[2] == size)
    fitted = tf.cond(same, lambda: images, resized)
    return tf.ensure_shape(fitted, [images.shape[0], size, size, 3])


def resize(images: tf.Tensor, image_size: int) -> tf.Tensor:
    """Antialiased bilinear resize that compiles under XLA: two matmuls with constant matrices.

    Equal to `tf.image.resize(images, [image_size] * 2, antialias=True)`, which XLA lacks.

    Args:
        images: [n, h, w, c], any real dtype, static h and w.

    Returns:
        float32 [n, image_size, image_size, c]; the input itself (as float32) where sizes agree.
    """
    images = tf.cast(images, tf.float32)
    h, w = images.shape[1:3]
    if h != image_size:
        images = tf.einsum("oh,nhwc->nowc", resize_matrix(h, image_size), images)
    if w != image_size:
        images = tf.einsum("ow,nhwc->nhoc", resize_matrix(w, image_size), images)
    return images


def resize_matrix(size_in: int, size_out: int) -> np.ndarray:
    """float32 [size_out, size_in]: rows of the triangle filter, widened when shrinking."""
    scale = size_in / size_out
    centers = (np.arange(size_out) + 0.5) * scale
    distance = np.abs(np.arange(size_in) + 0.5 - centers[:, None])
    weights = np.maximum(0.0, 1.0 - distance / max(scale, 1.0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def to_model_range(images: tf.Tensor) -> tf.Tensor:
    """0..255 of any dtype -> float32 in [-1, 1]."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0
