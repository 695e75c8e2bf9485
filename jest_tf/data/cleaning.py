"""What `prepare` asks of an image and a caption before it stores them."""

import collections
import functools
import io
import itertools
import threading
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from jest_tf.data import preprocess
from jest_tf.data.fields import is_text
from jest_tf.data.picture_files import MAX_PIXELS, MAX_SIDE, MIN_SIDE

# No caption needs more; web data has some of a megabyte.
MAX_CAPTION_BYTES = 10_000
# What the names of pictures end in, in any case.
IMAGE_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif",
)  # fmt: skip
# Formats whose bytes are stored as they are, where they need no change to be read by the rule. MPO
# is what Pillow calls a JPEG that holds further pictures, as phones write it.
KEPT_FORMATS = ("JPEG", "MPO", "PNG", "WEBP")
LOSSLESS_FORMATS = ("PNG", "GIF", "BMP")
JPEG_QUALITY = 92
_ORIENTATION = 0x112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TRACING = threading.Lock()
_CHECKED_SIDE = 16  # at which a picture is decoded to see whether training can
_SMALL_BYTES = 1 << 15  # up to this, calling TensorFlow takes longer than decoding

Checked = tuple[bytes, tuple[int, int], str | None]


def check_images(images: Sequence[bytes], max_side: int | None = None) -> list[Checked]:
    """For each (bytes to store, (width, height), None), or (b"", (0, 0), why it cannot be used).

    What is stored passes the decoder of training; it is normalised where its bytes alone would not
    be read by the rule. A shorter side beyond `max_side` is shrunk to it, stored as JPEG.
    """
    checked, asked = [], []
    for number, image in enumerate(images):
        try:
            stored, size = _normalised(image, max_side)
        except Exception as error:  # Pillow raises many types; each means one unusable image
            checked.append(_unusable(str(error)))
            continue
        checked.append((stored, size, None))
        if stored is image or min(size) < MIN_SIDE:  # Pillow's own JPEG and PNG can be decoded
            asked.append(number)
    for number, reason in zip(asked, undecodable([checked[i][0] for i in asked]), strict=True):
        if reason:
            checked[number] = _unusable(reason)
    return checked


def _unusable(reason: str) -> Checked:
    return b"", (0, 0), f"not a readable image: {reason}"[:200]


def normalised(image: bytes) -> bytes:
    """The image as `preprocess.decode` reads it by the rule; as it is where Pillow cannot."""
    try:
        return _normalised(image, None)[0]
    except Exception:  # as above; the decoder will say that it is no picture
        return image


def read_picture(image: bytes, max_side: int | None = None) -> Image.Image:
    """The picture by the rule, RGB: upright, on white, the first frame, 16 bits scaled to 8.

    Raises whatever Pillow raises, ValueError for pictures that the rule does not take.
    """
    with _opened(image) as picture:
        return _by_the_rule(picture, max_side)


def open_image(open_file: Callable, max_side: int | None = None) -> Image.Image | None:
    """The picture behind `open_file("rb")` (e.g. `path.open`), or None if it cannot be read."""
    try:
        with open_file("rb") as file:
            return read_picture(file.read(), max_side)
    except Exception:  # Pillow raises many types; each means one unusable image
        return None


def undecodable(images: Sequence[bytes]) -> list[str | None]:
    """Why the decoder of training cannot read each picture; None where it can.

    Small ones that follow one another are decoded together, in a fraction of the time.
    """
    reasons = []
    for are_small, group in itertools.groupby(images, lambda image: len(image) <= _SMALL_BYTES):
        for part in [list(group)] if are_small else ([image] for image in group):
            reasons += _undecodable(part)
    return reasons


def _undecodable(images: list[bytes]) -> list[str | None]:
    with _TRACING:  # once, and not in each of the threads that ask at first
        decode = _decoder()
    try:
        sound = decode(tf.constant(images))[1].numpy().tolist()
    except tf.errors.OpError as error:
        if half := len(images) // 2:
            return _undecodable(images[:half]) + _undecodable(images[half:])
        message = error.message.splitlines()[0].rpartition("}} ")[2]
        return [f"training's decoder says: {message}"]
    return [None if is_sound else "no picture, or too small or large" for is_sound in sound]


@functools.cache
def _decoder() -> Callable:
    # The picture is asked for too: what nobody asks for is not decoded.
    decode = tf.function(lambda e: preprocess.decode_batch(e, _CHECKED_SIDE), autograph=False)
    return decode.get_concrete_function(tf.TensorSpec([None], tf.string))


def _opened(image: bytes) -> Image.Image:
    if image[:4] == b"RIFF" and image[8:16] == b"WEBPVP8X" and image[20:21] and image[20] & 2:
        # A moving WebP: what a frame does not cover is transparent, whether the file says so or
        # not. Pillow makes it black where it does not.
        image = image[:20] + bytes([image[20] | 16]) + image[21:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own bound on pixels: ours is judged below
        try:
            picture = Image.open(io.BytesIO(image))
        except Image.UnidentifiedImageError:
            raise ValueError("no known format") from None
    width, height = picture.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        allowed = f"at most {MAX_PIXELS:,} in all and {MAX_SIDE:,} along a side"
        raise ValueError(f"{width}x{height} pixels; {allowed}")
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"{width}x{height} pixels carry no content")
    return picture


def _normalised(image: bytes, max_side: int | None) -> tuple[bytes, tuple[int, int]]:
    with _opened(image) as picture:
        shrink = max_side is not None and min(picture.size) > max_side
        if not shrink and _is_plain(picture):
            return image, picture.size
        lossless = picture.format in LOSSLESS_FORMATS and not shrink
        picture = _by_the_rule(picture, max_side if shrink else None)
    out = io.BytesIO()
    picture.save(out, "PNG") if lossless else picture.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue(), picture.size


def _is_plain(picture: Image.Image) -> bool:
    """Whether the bytes can be stored as they are: nothing in them has to be turned or filled."""
    return (
        picture.format in KEPT_FORMATS
        and _turn(picture) is None
        and not _is_transparent(picture)
        and (picture.format == "MPO" or getattr(picture, "n_frames", 1) == 1)
    )


def _by_the_rule(picture: Image.Image, max_side: int | None) -> Image.Image:
    if max_side is not None:
        # JPEG only: decoded at the smallest fraction that is still twice the target.
        scale = 2 * max_side / min(picture.size)
        picture.draft("RGB", [round(scale * side) for side in picture.size])
    turn = _turn(picture)
    picture = _rgb(picture)
    picture = picture if turn is None else picture.transpose(turn)
    if max_side is not None and min(picture.size) > max_side:
        scale = max_side / min(picture.size)
        target = [max(1, round(side * scale)) for side in picture.size]
        picture = picture.resize(target, Image.Resampling.BICUBIC)
    return picture


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """What makes it upright. Pillow turns TIFF and AVIF by itself."""
    if picture.format not in ("JPEG", "MPO", "PNG", "WEBP"):
        return None
    exif = Image.Exif()
    exif.load(picture.info.get("exif", b""))
    return _TURNS.get(exif.get(_ORIENTATION))


def _is_transparent(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info


def _rgb(picture: Image.Image) -> Image.Image:
    """In 8 bits, on white. Floating point is scaled only where the values say what is white."""
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, np.float64)
        low, high = values.min(), values.max()
        white = 1.0 if picture.mode == "F" else 65535.0
        if not 0 <= low <= high <= white:  # not-a-number fails too
            told = f"its values go from {low:g} to {high:g}; expected 0 to {white:g}"
            raise ValueError(f"{told}. Store it in 8 or 16 bits")
        picture = Image.fromarray(np.round(values * (255 / white)).astype(np.uint8))
    if _is_transparent(picture):
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def clean_captions(captions: list[bytes], counts: collections.Counter) -> list[bytes]:
    """Usable captions as stripped UTF-8; adds to `counts` what was dropped, repaired or cut."""
    cleaned = []
    for caption in captions:
        if len(caption) > MAX_CAPTION_BYTES:
            counts["captions_cut"] += 1
            caption = caption[:MAX_CAPTION_BYTES]
        else:
            try:
                caption.decode("utf-8")
            except UnicodeDecodeError:
                counts["captions_not_utf8"] += 1
        text = caption.decode("utf-8", "ignore").strip().encode()
        if is_text(text):
            cleaned.append(text)
        else:
            counts["captions_empty"] += 1
    return cleaned
