"""Pixels: decode on the host, resize on the device."""

import numpy as np
import tensorflow as tf

from jest_tf.model_record import PixelRule

OWN_RULE = PixelRule()  # antialiased bilinear
KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}
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


def decode(
    encoded: tf.Tensor, image_size: int, rule: PixelRule = OWN_RULE
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes one JPEG, PNG, GIF (first frame), BMP or WebP (string []).

    The picture is resized to a square by `rule`, without keeping its aspect (as SigLIP does).
    JPEGs of at least twice the size are decoded at 1/2, 1/4 or 1/8, which is cheaper.

    Returns:
        (uint8 [S, S, 3], bool []): zeros and False where the header shows that it is no picture of
        MIN_SIDE to MAX_SIDE and MAX_PIXELS. Raises InvalidArgumentError (in graph) where the data
        is corrupt.
    """
    images, ok = decode_batch(encoded[None], image_size, rule)
    return images[0], ok[0]


def decode_batch(
    encoded: tf.Tensor, image_size: int, rule: PixelRule = OWN_RULE
) -> tuple[tf.Tensor, tf.Tensor]:
    """`decode` for string [c]: (uint8 [c, S, S, 3], bool [c])."""
    kinds, is_png, h, w = _inspect(tf.io.decode_raw(encoded, tf.uint8, fixed_length=32))
    one_image = tf.TensorSpec([image_size, image_size, 3], tf.uint8)

    def any_kind():
        return tf.map_fn(
            lambda item: _decode_one(*item, image_size, rule),
            (encoded, kinds),
            fn_output_signature=(one_image, tf.TensorSpec([], tf.bool)),
        )

    def equal_pngs():
        # No branch and no resize per record: they cost more than decoding a picture of 64 x 64.
        spec = tf.TensorSpec([None, None, 3], tf.uint8)
        images = tf.map_fn(lambda e: tf.io.decode_png(e, 3), encoded, fn_output_signature=spec)
        return fit(images, image_size, rule), tf.ones_like(kinds, tf.bool)

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


def _decode_one(
    encoded: tf.Tensor, kind: tf.Tensor, size: int, rule: PixelRule
) -> tuple[tf.Tensor, tf.Tensor]:
    """(uint8 [S, S, 3], bool []) of one picture. One resize serves all formats: fewer graphs."""
    black = tf.zeros([size, size, 3], tf.uint8)

    def jpeg():
        h, w = tf.unstack(tf.io.extract_jpeg_shape(encoded)[:2])
        # Reduced decoding must leave at least the target size, or it would blur. It averages
        # pixels: twice that size for other filters, and none where the rule must not average.
        least = size + rule.margin if rule == OWN_RULE else 2 * (size + rule.margin)
        reduction = tf.minimum(h, w) // least if rule.antialias else 1
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
    return fit(tf.ensure_shape(image, [None, None, 3])[None], size, rule)[0], ok


def fit(images: tf.Tensor, size: int, rule: PixelRule = OWN_RULE) -> tf.Tensor:
    """uint8 [n, h, w, 3] -> uint8 [n, S, S, 3] by `rule`, rounded to the nearest (half up).

    By default what `tf.image.resize(antialias=True)` gives, up to the order of its sums, but faster
    on a CPU: its kernel sums along the height by whole rows, and along the width one pixel of 3
    values after the other. Here both sums go by whole rows, with a transposition between.
    """
    side = size + rule.margin

    def along_height(images):  # [n, h, w, 3] -> float32 [n, side, w, 3]
        n, h, w, _ = tf.unstack(tf.shape(images))
        rows = tf.raw_ops.ScaleAndTranslate(
            images=tf.reshape(images, [n, h, 1, w * 3]),
            size=[side, 1],
            scale=tf.stack([side / tf.cast(h, tf.float32), 1.0]),
            translation=[0.0, 0.0],
            kernel_type=KERNELS[rule.resize],
            antialias=rule.antialias,
        )
        return tf.reshape(rows, [n, side, w, 3])

    def resized():
        sides_swapped = along_height(tf.transpose(along_height(images), [0, 2, 1, 3]))
        if rule.resize == "bicubic":  # its weights are partly negative
            sides_swapped = tf.clip_by_value(sides_swapped, 0.0, 255.0)
        return tf.transpose(tf.cast(sides_swapped + 0.5, tf.uint8), [0, 2, 1, 3])

    shape = tf.shape(images)
    same = (shape[1] == side) & (shape[2] == side)
    fitted = tf.cond(same, lambda: images, resized)[:, :size, :size]
    return tf.ensure_shape(fitted, [images.shape[0], size, size, 3])


def fit_decoded(images: tf.Tensor, size: int, rule: PixelRule = OWN_RULE) -> tf.Tensor:
    """uint8 [n, h, w, 3] of any size -> float32 [n, S, S, 3] in 0..255, not rounded.

    Pictures of `size` x `size` are taken as they are: `decode` made them, and has cut the margin.
    """
    side, method = size + rule.margin, rule.resize
    shape = tf.shape(images)
    is_done = (shape[1] == size) & (shape[2] == size)

    def resized():
        return tf.image.resize(images, [side, side], method, antialias=rule.antialias)

    done = tf.cond(is_done, lambda: tf.cast(images, tf.float32), resized)[:, :size, :size]
    return tf.ensure_shape(tf.clip_by_value(done, 0.0, 255.0), [images.shape[0], size, size, 3])


def resize(images: tf.Tensor, image_size: int, rule: PixelRule = OWN_RULE) -> tf.Tensor:
    """Resize that compiles under XLA: two matmuls with constant matrices.

    By default equal to `tf.image.resize(images, [image_size] * 2, antialias=True)`, which XLA
    lacks. The margin of `rule` plays no part: `decode` has cut it.

    Args:
        images: [n, h, w, c], any real dtype, static h and w.

    Returns:
        float32 [n, image_size, image_size, c]; the input itself (as float32) where sizes agree.
    """
    images = tf.cast(images, tf.float32)
    h, w = images.shape[1:3]
    if h != image_size:
        images = tf.einsum("oh,nhwc->nowc", resize_matrix(h, image_size, rule), images)
    if w != image_size:
        images = tf.einsum("ow,nhwc->nhoc", resize_matrix(w, image_size, rule), images)
    return images


def resize_matrix(size_in: int, size_out: int, rule: PixelRule = OWN_RULE) -> np.ndarray:
    """float32 [size_out, size_in]: rows of the rule's filter, widened when shrinking."""
    scale = size_in / size_out
    centers = (np.arange(size_out) + 0.5) * scale
    distance = np.abs(np.arange(size_in) + 0.5 - centers[:, None])
    distance /= max(scale, 1.0) if rule.antialias else 1.0
    weights = np.maximum(0.0, 1.0 - distance)
    if rule.resize == "bicubic":  # Keys' kernel with a = -0.5, as Pillow's
        near = (1.5 * distance - 2.5) * distance**2 + 1.0
        far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
        weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def to_model_range(images: tf.Tensor) -> tf.Tensor:
    """0..255 of any dtype -> float32 in [-1, 1]."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0
