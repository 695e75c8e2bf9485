"""What the bytes of a picture file say beyond its pixels, in graph: kind, size, EXIF, transparency.

TensorFlow's decoders pass over EXIF and drop transparency; they cannot read a WebP that moves.
"""

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

# A picture of more pixels is refused by its header, before any memory is taken (64 MP: 200 MB).
MAX_PIXELS = 2**26
# So is a long one: a resize makes a picture of this width and the target's height, in float32.
MAX_SIDE = 2**15
# Tracking pixels and broken thumbnails carry no content.
MIN_SIDE = 2
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
HEADER_BYTES = 48
# EXIF stands at the start of a JPEG or PNG: nothing is searched behind it.
_EXIF_WITHIN = 2**14
BAD, JPEG, PNG, GIF, BMP, WEBP = range(6)


# A function of its own in the graph. Else its operations, dozens, would stand in the way of each
# picture that does not need it: TensorFlow visits the branches that it does not take.
_rare = functools.partial(tf.function, autograph=False, experimental_attributes={"_noinline": True})


class Headers(NamedTuple):
    """What the first bytes of c files say, all [c]."""

    kind: tf.Tensor  # int32: BAD where the magic number or the size say so
    height: tf.Tensor  # int64: 2 for JPEG, which is judged later
    width: tf.Tensor
    unusual: tf.Tensor  # a PNG that may be transparent, a WebP that moves
    may_have_exif: tf.Tensor  # a file that holds more than pixels


# Where a number stands in a header: (first byte, bytes, most significant first).
_NUMBERS = {
    "at_2": (2, 2, True), "at_20": (20, 2, True), "at_0": (0, 4, True),
    "at_4": (4, 4, True), "at_8": (8, 4, True), "at_12": (12, 4, True),
    "png_w": (16, 4, True), "png_h": (20, 4, True), "png_colour": (25, 1, True),
    "png_chunk": (37, 4, True), "gif_w": (6, 2, False), "gif_h": (8, 2, False),
    "bmp_w": (18, 4, False), "bmp_h": (22, 4, False), "bmp_bits": (28, 2, False),
    "webp_flags": (20, 1, False), "vp8x_w": (24, 3, False), "vp8x_h": (27, 3, False),
    "vp8l": (21, 4, False), "vp8_w": (26, 2, False), "vp8_h": (28, 2, False),
}  # fmt: skip


def _weights() -> np.ndarray:
    """float64 [HEADER_BYTES, numbers]: one product reads all numbers; 32 bits are exact in it."""
    weights = np.zeros((HEADER_BYTES, len(_NUMBERS)))
    for column, (at, n, is_big) in enumerate(_NUMBERS.values()):
        powers = 256.0 ** np.arange(n)
        weights[at : at + n, column] = powers[::-1] if is_big else powers
    return weights


def inspect(header: tf.Tensor) -> Headers:
    """Reads uint8 [c, HEADER_BYTES], zeros where a file is shorter."""
    numbers = tf.cast(tf.cast(header, tf.float64) @ _weights(), tf.int64)
    n = dict(zip(_NUMBERS, tf.unstack(numbers, axis=1), strict=True))

    def says(name: str, text: bytes) -> tf.Tensor:
        return n[name] == int.from_bytes(text, "big")

    is_png = says("at_0", PNG_MAGIC[:4]) & says("at_4", PNG_MAGIC[4:])
    is_webp = says("at_0", b"RIFF") & says("at_8", b"WEBP")
    extended = is_webp & says("at_12", b"VP8X")
    # Of fewer bits TensorFlow reads a BMP's numbers of colours as colours.
    is_bmp = (n["at_0"] // 2**16 == 0x424D) & ((n["bmp_bits"] == 24) | (n["bmp_bits"] == 32))
    two = tf.fill(tf.shape(n["at_0"]), tf.constant(2, tf.int64))  # a JPEG's size is judged later
    rows = (
        (JPEG, n["at_0"] // 256 == 0xFFD8FF, two, two),
        (PNG, is_png, n["png_h"], n["png_w"]),
        (GIF, says("at_0", b"GIF8"), n["gif_h"], n["gif_w"]),
        (BMP, is_bmp, n["bmp_h"], n["bmp_w"]),
        (WEBP, extended, n["vp8x_h"] + 1, n["vp8x_w"] + 1),
        (WEBP, is_webp & says("at_12", b"VP8L"),
         n["vp8l"] // 2**14 % 2**14 + 1, n["vp8l"] % 2**14 + 1),
        (WEBP, is_webp & says("at_12", b"VP8 "), n["vp8_h"] % 2**14, n["vp8_w"] % 2**14),
    )  # fmt: skip
    kinds, found, heights, widths = zip(*rows, strict=True)
    found, heights, widths = (tf.stack(column, 1) for column in (found, heights, widths))
    sound = found & is_sane(heights, widths)
    unplain_png = is_png & ~(
        ((n["png_colour"] == 0) | (n["png_colour"] == 2)) & says("png_chunk", b"IDAT")
    )
    # The usual JPEG: nothing between its mark, JFIF or not, and its tables.
    tables = (n["at_2"] == 0xFFDB) | ((n["at_2"] == 0xFFE0) & (n["at_20"] == 0xFFDB))
    kind = tf.reduce_max(tf.where(sound, tf.constant(kinds), BAD), 1)
    return Headers(
        kind=kind,
        height=tf.reduce_sum(tf.where(found, heights, 0), 1),
        width=tf.reduce_sum(tf.where(found, widths, 0), 1),
        unusual=unplain_png | (extended & (n["webp_flags"] // 2 % 2 == 1)),
        may_have_exif=((kind == JPEG) & ~tables)
        | unplain_png
        | (extended & (n["webp_flags"] // 8 % 2 == 1)),
    )


def _number(digits: tf.Tensor, big_endian: bool | tf.Tensor) -> tf.Tensor:
    """int64 [...] of bytes [..., n]."""
    powers = 256 ** np.arange(digits.shape[-1], dtype=np.int64)
    digits = tf.cast(digits, tf.int64)
    little, big = tf.reduce_sum(digits * powers, -1), tf.reduce_sum(digits * powers[::-1], -1)
    return tf.where(big_endian, big, little)


def is_sane(h: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    shorter, longer = tf.minimum(h, w), tf.maximum(h, w)
    # The sides alone come first: the product of the largest that a header can name overflows.
    return (shorter >= MIN_SIDE) & (longer <= MAX_SIDE) & (h * w <= MAX_PIXELS)


def on_white(images: tf.Tensor) -> tf.Tensor:
    """uint8 [..., 4] -> uint8 [..., 3]."""
    # At most 255 * 255 + 127: 16 bits hold it.
    colour, alpha = tf.cast(images[..., :3], tf.uint16), tf.cast(images[..., 3:], tf.uint16)
    return tf.cast((colour * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


def _after(text: tf.Tensor, mark: bytes) -> tf.Tensor:
    """string [c]: what follows the first `mark` in each; empty where there is none."""
    parts = tf.strings.split(text, mark, maxsplit=1)
    found = parts.row_lengths() > 1
    flat = tf.concat([parts.flat_values, [""]], 0)
    return tf.gather(flat, tf.where(found, parts.row_starts() + 1, tf.size(flat, tf.int64) - 1))


def upright(images: tf.Tensor, encoded: tf.Tensor, head: Headers) -> tf.Tensor:
    """uint8 [c, S, S, 3] turned as the EXIF of their files (string [c]) says, after the resize."""
    turned = lambda: _turned(images, _orientation(_exif_of(encoded, head)))  # noqa: E731
    return tf.cond(tf.reduce_any(head.may_have_exif), turned, lambda: images)


@_rare
def _turned(images: tf.Tensor, way: tf.Tensor) -> tf.Tensor:
    """uint8 [c, S, S, 3] by EXIF's orientation int64 [c]."""
    way = way[:, None, None, None]
    out = tf.where(way >= 5, tf.transpose(images, [0, 2, 1, 3]), images)
    mirrored = (way == 2) | (way == 3) | (way == 6) | (way == 7)
    out = tf.where(mirrored, out[:, :, ::-1], out)
    upside_down = (way == 3) | (way == 4) | (way == 7) | (way == 8)
    return tf.where(upside_down, out[:, ::-1], out)


@_rare
def _exif_of(encoded: tf.Tensor, head: Headers) -> tf.Tensor:
    """string [c]: each file's EXIF from its byte order on; empty where it has none."""
    encoded = tf.where(head.may_have_exif, encoded, "")
    start = tf.strings.substr(encoded, 0, _EXIF_WITHIN)
    chunk = _after(encoded, b"EXIF")  # of a WebP, at its end: the length, and with some a JPEG mark
    length = tf.fill(tf.shape(chunk), 2**20)
    chunk = tf.strings.substr(chunk, tf.minimum(tf.strings.length(chunk), 4), length)
    is_marked = tf.strings.substr(chunk, 0, 6) == b"Exif\0\0"
    of_webp = tf.where(is_marked, _after(chunk, b"Exif\0\0"), chunk)
    of_png = tf.where(head.kind == PNG, _after(start, b"eXIf"), of_webp)
    return tf.where(head.kind == JPEG, _after(start, b"Exif\0\0"), of_png)


@_rare
def _orientation(tiff: tf.Tensor) -> tf.Tensor:
    """int64 [c]: the orientation in EXIF (string [c]), 1 to 8; 1 where it is not said."""
    n_entries = 64
    header = tf.io.decode_raw(tiff, tf.uint8, fixed_length=8)
    is_big = header[:, 0] == ord("M")
    length = tf.strings.length(tiff)
    place = tf.minimum(_number(header[:, 4:], is_big), tf.cast(length, tf.int64))
    n_bytes = 2 + 12 * n_entries
    directory = tf.strings.substr(tiff, tf.cast(place, tf.int32), tf.fill(tf.shape(tiff), n_bytes))
    directory = tf.io.decode_raw(directory, tf.uint8, fixed_length=n_bytes)
    entries = tf.reshape(directory[:, 2:], [-1, n_entries, 12])
    is_big, n = is_big[:, None], _number(directory[:, :2], is_big)[:, None]
    found = (_number(entries[..., :2], is_big) == 0x112) & (tf.range(n_entries, dtype=n.dtype) < n)
    value = tf.reduce_max(tf.where(found, _number(entries[..., 8:10], is_big), 0), 1)
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _byte(value: tf.Tensor) -> tf.Tensor:
    """string [...] of one byte each."""
    return tf.gather(tf.constant([bytes([n]) for n in range(256)]), value)


@_rare
def still_webp(webp: tf.Tensor) -> tf.Tensor:
    """uint8 [h, w, 3] of a WebP (string []) that does not move."""
    image = tf.io.decode_webp(webp)[0]
    return tf.cond(tf.shape(image)[2] == 4, lambda: on_white(image), lambda: image)


@_rare
def first_frame(webp: tf.Tensor) -> tf.Tensor:
    """uint8 [h, w, 3] of a moving WebP (string []): its first frame, on a white canvas."""
    canvas = tf.io.decode_raw(tf.strings.substr(webp, 24, 6), tf.uint8, fixed_length=6)
    frame = _after(webp[None], b"ANMF")[0]
    header = tf.io.decode_raw(frame, tf.uint8, fixed_length=20)

    def number(of, at, n_bytes):
        return tf.cast(_number(of[at : at + n_bytes], False), tf.int32)

    picture = tf.strings.substr(frame, 20, number(header, 0, 4) - 16)
    extension = tf.strings.join([b"VP8X\x0a\0\0\0\x10\0\0\0", tf.strings.substr(frame, 10, 6)])
    has_alpha = tf.strings.substr(picture, 0, 4) == b"ALPH"
    body = tf.strings.join([b"WEBP", tf.where(has_alpha, extension, b""), picture])
    length = tf.strings.length(body) // [1, 2**8, 2**16, 2**24] % 256
    still = tf.strings.join([b"RIFF", tf.strings.reduce_join(_byte(length)), body])
    # The frame has a size of its own, which is judged as every header's; "" is no picture.
    kind = inspect(tf.io.decode_raw(still[None], tf.uint8, fixed_length=HEADER_BYTES)).kind[0]
    image = still_webp(tf.where(kind == WEBP, still, b""))
    left, top = 2 * number(header, 4, 3), 2 * number(header, 7, 3)
    right = number(canvas, 0, 3) + 1 - left - tf.shape(image)[1]
    bottom = number(canvas, 3, 3) + 1 - top - tf.shape(image)[0]
    return tf.pad(image, [[top, bottom], [left, right], [0, 0]], constant_values=255)


@_rare
def opaque_gif(gif: tf.Tensor) -> tf.Tensor:
    """A GIF (string []) whose first frame is white where it was transparent.

    TensorFlow draws what is transparent black. So its colour is made white, and no longer marked.
    """
    mark = b"\x21\xf9\x04"
    flags = tf.cast(tf.io.decode_raw(gif, tf.uint8, fixed_length=13)[10], tf.int32)
    end = 13 + tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)
    rest = tf.strings.substr(gif, end, tf.strings.length(gif))
    control = _after(rest[None], mark)[0]
    values = tf.cast(tf.io.decode_raw(control, tf.uint8, fixed_length=15), tf.int32)
    # The frame may follow with a table of its own.
    is_local = (values[5] == 0x2C) & (values[14] >= 128)
    before = tf.strings.length(gif) - tf.strings.length(control)
    place = tf.where(is_local, before + 15, 13) + 3 * values[3]

    def replaced(text, at, new):
        rest = tf.strings.substr(text, at + len(new), tf.strings.length(text))
        return tf.strings.join([tf.strings.substr(text, 0, at), new, rest])

    def opaque():
        marked = tf.strings.join(
            [tf.strings.substr(gif, 0, before), _byte(values[0] - 1),
             tf.strings.substr(gif, before + 1, tf.strings.length(gif))]
        )  # fmt: skip
        return replaced(marked, place, b"\xff\xff\xff")

    is_transparent = (tf.strings.length(control) > 15) & (values[0] % 2 == 1)
    return tf.cond(is_transparent, opaque, lambda: gif)
