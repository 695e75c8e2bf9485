"""Pixels: decode on the host by one rule, resize on the device.

The rule, the same wherever a picture becomes pixels (docs/data.md): upright as its EXIF says, what
is transparent on white, the first frame of an animation, 16 bits scaled to 8. This module holds it
as a graph, for training, evaluation and exports; `jest_tf.data.cleaning` holds it for Pillow.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from jest_tf.data import picture_files
from jest_tf.model_record import PixelRule
from jest_tf.ops import resize_matrix

OWN_RULE = PixelRule()  # antialiased bilinear
KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}
# Up to this size, pictures of one size are resized together.
SMALL_PIXELS = 256 * 256
# Files that `decode_all` decodes together.
CHUNK = 8


def decode(
    encoded: tf.Tensor, image_size: int, rule: PixelRule = OWN_RULE
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes one JPEG, PNG, GIF, BMP (24 or 32 bits) or WebP (string []) by the rule, to a square.

    JPEGs of at least twice the size are decoded at 1/2, 1/4 or 1/8, which is cheaper.
    (uint8 [S, S, 3], bool []): zeros and False where the header says that it is no picture of
    MIN_SIDE to MAX_SIDE and MAX_PIXELS. InvalidArgumentError (in graph) where data are corrupt.
    """
    images, ok = decode_batch(encoded[None], image_size, rule)
    return images[0], ok[0]


def decode_batch(
    encoded: tf.Tensor, image_size: int, rule: PixelRule = OWN_RULE
) -> tuple[tf.Tensor, tf.Tensor]:
    """`decode` for string [c]: (uint8 [c, S, S, 3], bool [c])."""
    head = picture_files.inspect(
        tf.io.decode_raw(encoded, tf.uint8, fixed_length=picture_files.HEADER_BYTES)
    )
    # The margin is cut off last: it is at the right and the bottom of the picture that is upright.
    side, uncut = image_size + rule.margin, dataclasses.replace(rule, margin=0)
    one_image = tf.TensorSpec([side, side, 3], tf.uint8)

    def any_kind():
        return tf.map_fn(
            lambda item: _decode_one(*item, side, uncut),
            (encoded, head.kind, head.unusual),
            fn_output_signature=(one_image, tf.TensorSpec([], tf.bool)),
        )

    def equal_pngs():
        # No branch and no resize per record: they cost more than decoding a picture of 64 x 64.
        def pixels(channels):
            spec = tf.TensorSpec([None, None, channels], tf.uint8)
            return tf.map_fn(
                lambda e: tf.io.decode_png(e, channels), encoded, fn_output_signature=spec
            )

        any_unusual = tf.reduce_any(head.unusual)
        images = tf.cond(any_unusual, lambda: picture_files.on_white(pixels(4)), lambda: pixels(3))
        return fit(images, side, uncut), tf.ones_like(head.unusual)

    h, w = head.height, head.width
    are_small = h[0] * w[0] <= SMALL_PIXELS
    are_equal = tf.reduce_all((head.kind == picture_files.PNG) & (h == h[0]) & (w == w[0]))
    images, ok = tf.cond(are_equal & are_small, equal_pngs, any_kind)
    images = tf.ensure_shape(picture_files.upright(images, encoded, head), [None, side, side, 3])
    return _without_margin(images, image_size), ok


def _without_margin(images: tf.Tensor, size: int) -> tf.Tensor:
    """[n, side, side, 3] -> [n, size, size, 3]; no copy where the sides are the same."""
    return images if images.shape[1] == size else images[:, :size, :size]


def decode_all(
    encoded: tf.Tensor, image_size: int, rule: PixelRule = OWN_RULE
) -> tuple[tf.Tensor, tf.Tensor]:
    """`decode_batch` for string [n] that never raises: corrupt data is black and False too.

    A graph has no `try`, but tf.data can pass over an element that raises. A data set costs more
    than a small picture, so each holds CHUNK files; those of a chunk that raises are decoded one by
    one, each with a black picture after it.
    """
    black = (tf.zeros([image_size, image_size, 3], tf.uint8), False)

    def first_that_works(file: tf.Tensor) -> tf.data.Dataset:
        files = tf.data.Dataset.from_tensors(file)
        decoded = files.map(lambda f: decode(f, image_size, rule)).ignore_errors()
        return decoded.concatenate(tf.data.Dataset.from_tensors(black)).take(1)

    def of_chunk(files: tf.Tensor) -> tf.data.Dataset:
        together = tf.data.Dataset.from_tensors(files)
        together = together.map(lambda f: decode_batch(f, image_size, rule)).ignore_errors()
        one_by_one = tf.data.Dataset.from_tensor_slices(files).flat_map(first_that_works)
        return together.concatenate(one_by_one.batch(CHUNK)).take(1)

    n = tf.size(encoded)
    # Filled up with what is no picture; at least one chunk, for an empty data set gives no batch.
    n_chunks = n // CHUNK + 1
    files = tf.concat([encoded, tf.fill([n_chunks * CHUNK - n], "")], axis=0)
    files = tf.data.Dataset.from_tensor_slices(tf.reshape(files, [n_chunks, CHUNK]))
    # As many at a time as a large host has cores; the order stays that of the files.
    decoded = files.interleave(
        of_chunk, cycle_length=32, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    chunks, ok = decoded.batch(tf.cast(n_chunks, tf.int64)).get_single_element()
    images = tf.reshape(chunks, [n_chunks * CHUNK, image_size, image_size, 3])
    return images[:n], tf.reshape(ok, [n_chunks * CHUNK])[:n]


def _decode_one(
    encoded: tf.Tensor, kind: tf.Tensor, unusual: tf.Tensor, size: int, rule: PixelRule
) -> tuple[tf.Tensor, tf.Tensor]:
    """(uint8 [S, S, 3], bool []) of one picture. One resize serves all formats: fewer graphs."""
    black = tf.zeros([size, size, 3], tf.uint8)

    def jpeg():
        h, w = tf.unstack(tf.io.extract_jpeg_shape(encoded)[:2])
        # Reduced decoding must leave at least the target size, or it would blur. It averages
        # pixels: twice that size for other filters, and none where the rule must not average.
        least = size if rule == OWN_RULE else 2 * size
        reduction = tf.minimum(h, w) // least if rule.antialias else 1
        branch = tf.cast(reduction >= 2, tf.int32)
        branch += tf.cast(reduction >= 4, tf.int32) + tf.cast(reduction >= 8, tf.int32)
        branch = tf.where(
            picture_files.is_sane(tf.cast(h, tf.int64), tf.cast(w, tf.int64)), branch, 4
        )
        ways = [lambda r=r: tf.io.decode_jpeg(encoded, 3, ratio=r) for r in (1, 2, 4, 8)]
        return tf.switch_case(branch, [*ways, lambda: black]), branch < 4

    def png():
        transparent = lambda: picture_files.on_white(tf.io.decode_png(encoded, 4))  # noqa: E731
        return tf.cond(unusual, transparent, lambda: tf.io.decode_png(encoded, 3)), True

    def webp():
        # TensorFlow cannot read moving ones, and overwrites foreign memory where it tries to.
        moving, still = (
            lambda: picture_files.first_frame(encoded),
            lambda: picture_files.still_webp(encoded),
        )
        return tf.cond(unusual, moving, still), True

    def gif():
        return tf.io.decode_image(
            picture_files.opaque_gif(encoded), 3, expand_animations=False
        ), True

    def bmp():
        return tf.io.decode_bmp(encoded)[..., :3], True

    branches = [lambda: (black, False), jpeg, png, gif, bmp, webp]
    image, ok = tf.switch_case(kind, branches)
    return fit(tf.ensure_shape(image, [None, None, 3])[None], size, rule)[0], ok


def fit(images: tf.Tensor, size: int, rule: PixelRule = OWN_RULE) -> tf.Tensor:
    """uint8 [n, h, w, 3] -> uint8 [n, S, S, 3] by `rule`, rounded to the nearest (half up).

    By default `tf.image.resize(antialias=True)` up to the order of its sums, but faster on a CPU:
    both sums go by whole rows, with a transposition between.
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
        if rule.resize == "bicubic":  # along the width first, and rounded, as Pillow does
            once = along_height(tf.transpose(images, [0, 2, 1, 3]))
            return to_bytes(along_height(tf.transpose(to_bytes(once), [0, 2, 1, 3])))
        sides_swapped = along_height(tf.transpose(along_height(images), [0, 2, 1, 3]))
        return tf.transpose(tf.cast(sides_swapped + 0.5, tf.uint8), [0, 2, 1, 3])

    def to_bytes(pixels):  # the filter is partly negative
        return tf.cast(tf.clip_by_value(pixels, 0.0, 255.0) + 0.5, tf.uint8)

    shape = tf.shape(images)
    same = (shape[1] == side) & (shape[2] == side)
    fitted = tf.ensure_shape(tf.cond(same, lambda: images, resized), [None, side, side, 3])
    return _without_margin(fitted, size)


def fit_decoded(images: tf.Tensor, size: int, rule: PixelRule = OWN_RULE) -> tf.Tensor:
    """uint8 [n, h, w, 3] of any size -> float32 [n, S, S, 3] in 0..255, not rounded.

    Pictures of S x S stay as they are: `decode` made them, and has cut the margin.
    """
    side, method = size + rule.margin, rule.resize
    shape = tf.shape(images)
    is_done = (shape[1] == size) & (shape[2] == size)

    def resized():
        return tf.image.resize(images, [side, side], method, antialias=rule.antialias)

    done = tf.cond(is_done, lambda: tf.cast(images, tf.float32), resized)[:, :size, :size]
    return tf.ensure_shape(tf.clip_by_value(done, 0.0, 255.0), [images.shape[0], size, size, 3])


def resize(images: tf.Tensor, image_size: int, rule: PixelRule = OWN_RULE) -> tf.Tensor:
    """[n, h, w, c] -> float32 [n, S, S, c]: two matmuls with constant matrices, which XLA compiles.

    By default equal to `tf.image.resize(antialias=True)`. `decode` has cut the rule's margin.
    """
    images = tf.cast(images, tf.float32)
    h, w = images.shape[1:3]
    if h != image_size:
        images = tf.einsum(
            "oh,nhwc->nowc", resize_matrix(h, image_size, rule).astype(np.float32), images
        )
    if w != image_size:
        images = tf.einsum(
            "ow,nhwc->nhoc", resize_matrix(w, image_size, rule).astype(np.float32), images
        )
    return images


def to_model_range(images: tf.Tensor) -> tf.Tensor:
    """0..255 of any dtype -> float32 in [-1, 1]."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0
