"""Changes to the pictures of the chosen, on the device: keras-cv's, with draws from outside.

Left alone, keras-cv's layers draw from a generator whose state no checkpoint has and that differs
between replicas: a resumed run would not be the same run. Here a picture's draws are an input.
"""

from collections.abc import Callable

import tensorflow as tf

from jest_tf.errors import UserError

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.2 * 255, 0.2, 0.2, 0.05
CUTOUT_SIDE, GREY = 0.3, 127.5
# keras-cv asks for the ranges of draws that it is never asked to make.
_UNUSED = 0.0
# Uniform numbers in [0, 1) that a picture takes: the flip, the colours, the cutout, in this order.
_DRAWS = {"flip": 1, "colour": 4, "cutout": 4}
N_DRAWS = sum(_DRAWS.values())

Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def augmentation(names: tuple[str, ...]) -> Augment:
    """(images [n, h, w, 3] in 0..255, draws [n, N_DRAWS] in [0, 1)) -> float32 [n, h, w, 3] in
    0..255.

    names: any of `flip` (horizontal), `colour` (brightness, contrast, saturation, hue), `cutout`
    (one grey rectangle), applied in this order; another is a UserError. All compile under XLA
    (keras-cv's crops and RandAugment do not). A picture's draws alone say how it changes.
    """
    make = {"flip": _flip, "colour": _colour, "cutout": _cutout}
    unknown = set(names) - set(make)
    if unknown:
        raise UserError(f"unknown augmentation {sorted(unknown)}; known: {sorted(make)}")
    places, start = {}, 0
    for name, n in _DRAWS.items():
        places[name], start = slice(start, start + n), start + n
    changes = [(make[name](), places[name]) for name in names]

    def augment(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        images = tf.cast(images, tf.float32)
        for change, place in changes:
            images = change(images, draws[:, place])
        return tf.clip_by_value(images, 0.0, 255.0)

    return augment


def _flip() -> Augment:
    import keras_cv  # takes seconds to import, and most runs do not augment

    layer = keras_cv.layers.RandomFlip("horizontal")

    def change(images: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        flips = {"flip_horizontals": u, "flip_verticals": tf.zeros_like(u)}
        return layer.augment_images(images, flips)

    return change


def _colour() -> Augment:
    import keras_cv

    values = (0, 255)
    brightness = keras_cv.layers.RandomBrightness(_UNUSED, values)
    contrast = keras_cv.layers.RandomContrast(values, _UNUSED)
    saturation = keras_cv.layers.RandomSaturation(_UNUSED)
    hue = keras_cv.layers.RandomHue(_UNUSED, values)

    def change(images: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        either_way = 2 * u - 1
        of_pictures = [either_way[:, i, None, None, None] for i in range(2)]
        images = brightness.augment_images(images, BRIGHTNESS * of_pictures[0])
        images = contrast.augment_images(images, 1 + CONTRAST * of_pictures[1])
        # To keras-cv 0.5 is unchanged, and half a turn of the hue is 1.
        images = saturation.augment_images(images, 0.5 + SATURATION / 2 * either_way[:, 2])
        return hue.augment_images(images, HUE / 2 * either_way[:, 3])

    return change


def _cutout() -> Augment:
    import keras_cv

    layer = keras_cv.layers.RandomCutout(
        height_factor=_UNUSED, width_factor=_UNUSED, fill_mode="constant", fill_value=GREY
    )

    def change(images: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        height, width = (float(side) for side in images.shape[1:3])
        rectangles = {
            "centers_x": u[:, 0] * width,
            "centers_y": u[:, 1] * height,
            "rectangles_height": tf.math.ceil(u[:, 2] * CUTOUT_SIDE * height),
            "rectangles_width": tf.math.ceil(u[:, 3] * CUTOUT_SIDE * width),
        }
        rectangles = {name: tf.cast(value, tf.int32) for name, value in rectangles.items()}
        return layer.augment_images(images, rectangles)

    return change
