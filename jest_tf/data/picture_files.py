"""What the bytes of a picture file say beyond its pixels, in graph: kind, size, EXIF, transparency.

TensorFlow's decoders pass over EXIF and drop transparency; they cannot read a WebP that moves.
"""

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
_EXIF_WITHIN = 2**16
BAD, JPEG, PNG, GIF, BMP, WEBP = range(6)


class Headers(NamedTuple):
    """What the first bytes of c files say, all [c].

    `kind` int32 is BAD where the magic number or the size say so. `height`, `width` int64 are 0
    for JPEG, whose size stands further back and is judged later. `unusual`: a PNG that may be
    transparent, a WebP that moves. `may_have_exif`: a JPEG, or a PNG or WebP that has more than
    pixels.
    """

    kind: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor
    unusual: tf.Tensor
    may_have_exif: tf.Tensor


def inspect(header: tf.Tensor) -> Headers:
    """Reads uint8 [c, HEADER_BYTES], zeros where a file is shorter."""

    def starts(magic: bytes, at: int = 0) -> tf.Tensor:
        expected = tf.constant(list(magic), tf.uint8)
        return tf.reduce_all(header[:, at : at + len(magic)] == expected, -1)

    def number(at: int, n_bytes: int, big_endian: bool = False) -> tf.Tensor:
        return _number(header[:, at : at + n_bytes], big_endian)

    kind = tf.where(starts(b"\xff\xd8\xff"), JPEG, BAD)
    height = width = tf.zeros_like(kind, tf.int64)
    is_png, is_webp = starts(PNG_MAGIC), starts(b"RIFF") & starts(b"WEBP", 8)
    extended = is_webp & starts(b"VP8X", 12)
    packed = number(21, 4)  # of WebP's lossless form: 14 bits less one each
    for code, found, h, w in (
        (PNG, is_png, number(20, 4, True), number(16, 4, True)),
        (GIF, starts(b"GIF8"), number(8, 2), number(6, 2)),
        # Of fewer bits TensorFlow reads the numbers of colours as colours.
        (BMP, starts(b"BM") & (starts(b"\x18\0", 28) | starts(b"\x20\0", 28)),
         number(22, 4), number(18, 4)),
        (WEBP, extended, number(27, 3) + 1, number(24, 3) + 1),
        (WEBP, is_webp & starts(b"VP8L", 12), packed // 2**14 % 2**14 + 1, packed % 2**14 + 1),
        (WEBP, is_webp & starts(b"VP8 ", 12), number(28, 2) % 2**14, number(26, 2) % 2**14),
    ):  # fmt: skip
        kind = tf.where(found, tf.where(is_sane(h, w), code, BAD), kind)
        height, width = tf.where(found, h, height), tf.where(found, w, width)
    colour, flags = header[:, 25], header[:, 20]
    is_plain = ((colour == 0) | (colour == 2)) & starts(b"IDAT", 37)
    moves = extended & (flags & 2 > 0)
    has_exif = (kind == JPEG) | (is_png & ~is_plain) | (extended & (flags & 8 > 0))
    return Headers(kind, height, width, (is_png & ~is_plain) | moves, has_exif)


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


def exif_of(encoded: tf.Tensor, head: Headers) -> tf.Tensor:
    """string [c]: each file's EXIF from its byte order on; empty where it has none."""
    start = tf.strings.substr(encoded, 0, _EXIF_WITHIN)
    found = tf.fill(tf.shape(encoded), "")
    for kind, where, mark in (
        (JPEG, start, b"Exif\0\0"),
        (PNG, start, b"eXIf"),
        (WEBP, encoded, b"EXIF"),  # at its end
    ):
        searched = tf.where(head.may_have_exif & (head.kind == kind), where, "")
        found = tf.strings.join([found, _after(searched, mark)])
    # WebP: its length comes first, and with some writers the mark of JPEG.
    is_webp = (head.kind == WEBP) & (tf.strings.length(found) >= 10)
    skipped = tf.where(is_webp, 4, 0)
    marked = tf.strings.substr(found, skipped, tf.fill(tf.shape(found), 6)) == b"Exif\0\0"
    skipped += tf.where(marked, 6, 0)
    return tf.strings.substr(found, skipped, tf.fill(tf.shape(found), _EXIF_WITHIN))


def upright(images: tf.Tensor, tiff: tf.Tensor) -> tf.Tensor:
    """uint8 [c, S, S, 3] turned as their EXIF (string [c]) says; squares, so all keep their shape.

    A resize to a square and a turn may change places: the turn of the small one costs nothing.
    """

    def turned():
        way = _orientation(tiff)[:, None, None, None]
        out = tf.where(way >= 5, tf.transpose(images, [0, 2, 1, 3]), images)
        mirrored = (way == 2) | (way == 3) | (way == 6) | (way == 7)
        out = tf.where(mirrored, out[:, :, ::-1], out)
        upside_down = (way == 3) | (way == 4) | (way == 7) | (way == 8)
        return tf.where(upside_down, out[:, ::-1], out)

    return tf.cond(tf.reduce_any(tf.strings.length(tiff) > 0), turned, lambda: images)


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


def still_webp(webp: tf.Tensor) -> tf.Tensor:
    """uint8 [h, w, 3] of a WebP (string []) that does not move."""
    image = tf.io.decode_webp(webp)[0]
    return tf.cond(tf.shape(image)[2] == 4, lambda: on_white(image), lambda: image)


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
    image = still_webp(tf.strings.join([b"RIFF", tf.strings.reduce_join(_byte(length)), body]))
    left, top = 2 * number(header, 4, 3), 2 * number(header, 7, 3)
    right = number(canvas, 0, 3) + 1 - left - tf.shape(image)[1]
    bottom = number(canvas, 3, 3) + 1 - top - tf.shape(image)[0]
    return tf.pad(image, [[top, bottom], [left, right], [0, 0]], constant_values=255)


def opaque_gif(gif: tf.Tensor) -> tf.Tensor:
    """A GIF (string []) whose first frame is white where it was transparent.

    TensorFlow reads no transparency of GIFs: what it leaves out is black. So the colour that stands
    for it is made white in the table of colours, and no longer marked.
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
