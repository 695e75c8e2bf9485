"""Pictures are changed as their draws say, alike under XLA, whatever stands beside them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from jest_tf.data.augmentation import N_DRAWS, augmentation
from jest_tf.errors import UserError

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (4, 16, 20, 3)).astype(np.float32)
MIDDLE = np.full([4, N_DRAWS], 0.5, np.float32)


def compiled(name):
    return tf.function(augmentation((name,)), jit_compile=True, autograph=False)


def with_draws(**columns):
    draws = MIDDLE.copy()
    for column, values in columns.items():
        draws[:, int(column[1:])] = values
    return draws


def _crop_and_resize(picture, box):
    """Keras's own affine transformation, bilinear, edges repeated."""
    height, width = picture.shape[:2]
    top, left, bottom, right = box
    rows, columns = bottom - top, right - left
    # Centres of pixels: out + 0.5 -> (out + 0.5) * share + start - 0.5.
    move = [
        *(columns, 0, left * width + 0.5 * columns - 0.5),
        *(0, rows, top * height + 0.5 * rows - 0.5),
        *(0, 0),
    ]
    return keras.ops.image.affine_transform(
        picture, np.float32(move), interpolation="bilinear", fill_mode="nearest"
    )


def test_nothing_is_changed_by_default():
    np.testing.assert_array_equal(augmentation(())(IMAGES.astype(np.uint8), MIDDLE), IMAGES)


def test_flips_where_the_draw_is_above_a_half():
    flipped = compiled("flip")(IMAGES, with_draws(u0=[0.1, 0.9, 0.4, 0.6])).numpy()
    expected = [IMAGES[0], IMAGES[1][:, ::-1], IMAGES[2], IMAGES[3][:, ::-1]]
    np.testing.assert_array_equal(flipped, expected)


def test_colours_in_the_middle_are_unchanged_and_brightness_is_a_shift():
    colour = compiled("colour")
    np.testing.assert_allclose(colour(IMAGES, MIDDLE), IMAGES, atol=1e-3)
    brighter = colour(IMAGES, with_draws(u1=[1.0, 0.75, 0.5, 0.0])).numpy()
    shift = np.array([51, 25.5, 0, -51], np.float32)[:, None, None, None]
    np.testing.assert_allclose(brighter, np.clip(IMAGES + shift, 0, 255), atol=1e-3)


@pytest.mark.parametrize("column", ["u2", "u3", "u4"])
def test_contrast_saturation_and_hue_change_pictures_within_bounds(column):
    changed = compiled("colour")(IMAGES, with_draws(**{column: [0.0, 1.0, 0.5, 0.5]})).numpy()
    assert np.abs(changed - IMAGES)[:2].mean(axis=(1, 2, 3)).min() > 1
    np.testing.assert_allclose(changed[2:], IMAGES[2:], atol=1e-3)
    assert changed.min() >= 0 and changed.max() <= 255


def test_cutout_is_one_grey_rectangle_where_the_draws_say():
    cut = compiled("cutout")(IMAGES, with_draws(u5=0.5, u6=0.5, u7=0.99, u8=0.99)).numpy()
    grey = (cut == 127.5).all(-1)
    # ceil(.99 * .3 * side) rows and columns around the middle.
    for picture in grey:
        rows, columns = np.flatnonzero(picture.any(1)), np.flatnonzero(picture.any(0))
        assert len(rows) == 5 and len(columns) == 6
        assert picture.sum() == 30
        assert abs(rows.mean() - 8) <= 1 and abs(columns.mean() - 10) <= 1
    np.testing.assert_array_equal(cut[~grey], IMAGES[~grey])


def test_a_crop_is_the_part_that_the_draws_say_resized_to_the_whole():
    draws = rng.random((4, N_DRAWS)).astype(np.float32)
    draws[0, 9:] = [1, 0.3, 1, 0.7]  # all of both sides
    cropped = compiled("crop")(IMAGES, draws).numpy()
    np.testing.assert_allclose(cropped[0], IMAGES[0], atol=1e-3)
    for picture, whole, u in zip(cropped[1:], IMAGES[1:], draws[1:, 9:], strict=True):
        (top, height), (left, width) = (
            (b * (0.3 - 0.3 * a), 0.7 + 0.3 * a) for a, b in (u[:2], u[2:])
        )
        box = [[top, left, top + height, left + width]]
        np.testing.assert_allclose(picture, _crop_and_resize(whole, box[0]), atol=0.01)


def test_neighbours_do_not_matter():
    draws = rng.random((4, N_DRAWS)).astype(np.float32)
    augment = augmentation(("flip", "colour", "cutout", "crop"))
    alone = [augment(IMAGES[i : i + 1], draws[i : i + 1])[0] for i in range(4)]
    np.testing.assert_allclose(augment(IMAGES, draws), alone, atol=1e-3)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="sparkle"):
        augmentation(("sparkle",))
