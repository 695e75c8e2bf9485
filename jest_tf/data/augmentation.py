"""Changes to the pictures of the chosen, on the device: keras-cv's, with draws from outside.

Left alone, keras-cv's layers draw from a generator whose state no checkpoint has and that differs
between replicas: a resumed run would not be the same run. Here a picture's draws are an input.
"""

import itertools
from collections.abc import Callable

import tensorflow as tf

from jest_tf.errors import UserError

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.2 * 255, 0.2, 0.2, 0.05
CUTOUT_SIDE, GREY = 0.3, 127.5
CROP_SIDE = 0.7  # the smallest side of a crop, of the picture's
# keras-cv asks for the ranges of draws that it is never asked to make.
_UNUSED = 0.0
# Uniform numbers in [0, 1) that a picture takes, in this order.
_DRAWS = {"flip": 1, "colour": 4, "cutout": 4, "crop": 4}
N_DRAWS = sum(_DRAWS.values())

Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def augmentation(names: tuple[str, ...]) -> Augment:
    """(images [n, h, w, 3] in 0..255, draws [n, N_DRAWS] in [0, 1)) -> float32 [n, h, w, 3] in
    0..255.

    names: any of `flip` (horizontal), `colour` (brightness, contrast, saturation, hue), `cutout`
    (one grey rectangle), `crop` (a part of 0.7 to 1 of each side, resized to the whole), applied in
    the order of `names`; another is a UserError. All compile under XLA (keras-cv's crops, its
    RandAugment and Keras's affine transformation do not). A picture's draws alone say how it
    changes.
    """
    unknown = set(names) - set(_DRAWS)
    if unknown:
        raise UserError(f"unknown augmentation {sorted(unknown)}; known: {sorted(_DRAWS)}")
    import keras_cv  # takes seconds to import, and most runs do not augment

    layers, values = keras_cv.layers, (0, 255)
    horizontal = layers.RandomFlip("horizontal")
    brightness = layers.RandomBrightness(_UNUSED, values)
    contrast = layers.RandomContrast(values, _UNUSED)
    saturation = layers.RandomSaturation(_UNUSED)
    hue = layers.RandomHue(_UNUSED, values)
    rectangle = layers.RandomCutout(_UNUSED, _UNUSED, fill_mode="constant", fill_value=GREY)

    def flip(images: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        flips = {"flip_horizontals": u, "flip_verticals": tf.zeros_like(u)}
        return horizontal.augment_images(images, flips)

    def colour(images: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        either_way = 2 * u - 1
        of_pictures = [either_way[:, i, None, None, None] for i in range(2)]
        images = brightness.augment_images(images, BRIGHTNESS * of_pictures[0])
        images = contrast.augment_images(images, 1 + CONTRAST * of_pictures[1])
        # To keras-cv 0.5 is unchanged, and half a turn of the hue is 1.
        images = saturation.augment_images(images, 0.5 + SATURATION / 2 * either_way[:, 2])
        return hue.augment_images(images, HUE / 2 * either_way[:, 3])

    def cutout(images: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        height, width = (float(side) for side in images.shape[1:3])
        rectangles = {
            "centers_x": u[:, 0] * width,
            "centers_y": u[:, 1] * height,
            "rectangles_height": tf.math.ceil(u[:, 2] * CUTOUT_SIDE * height),
            "rectangles_width": tf.math.ceil(u[:, 3] * CUTOUT_SIDE * width),
        }
        rectangles = {name: tf.cast(value, tf.int32) for name, value in rectangles.items()}
        return rectangle.augment_images(images, rectangles)

    def crop(images: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        _, height, width, _ = images.shape
        rows, columns = _crop_of(u[:, 0], u[:, 1], height), _crop_of(u[:, 2], u[:, 3], width)
        return tf.einsum("nih,njw,nhwc->nijc", rows, columns, images)

    changes = {"flip": flip, "colour": colour, "cutout": cutout, "crop": crop}
    ends = dict(zip(_DRAWS, itertools.accumulate(_DRAWS.values()), strict=True))

    def augment(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        images = tf.cast(images, tf.float32)
        for name in names:
            images = changes[name](images, draws[:, ends[name] - _DRAWS[name] : ends[name]])
        return tf.clip_by_value(images, 0.0, 255.0)

    return augment


def _crop_of(size: tf.Tensor, start: tf.Tensor, side: int) -> tf.Tensor:
    """Bilinear weights [n, side, side] of pixels (last axis) in pixels of a crop resized to `side`.

    size, start: draws [n], of the crop's length (CROP_SIDE to 1) and of where it lies.
    """
    share = (CROP_SIDE + (1 - CROP_SIDE) * size)[:, None]
    of_whole = (tf.range(side, dtype=tf.float32) + 0.5) * share  # centres of pixels in the crop
    at = of_whole + start[:, None] * (1 - share) * side - 0.5
    at = tf.clip_by_value(at, 0.0, side - 1.0)[:, :, None]
    return tf.maximum(0.0, 1 - tf.abs(at - tf.range(side, dtype=tf.float32)))
