"""Text that Pillow's built-in font can draw."""

import functools
import unicodedata

from PIL import ImageFont

# Pillow ships one scalable font; characters outside it would all be drawn as the same empty box.
_MISSING = "\uffff"
_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-"})


@functools.cache
def font(size: int) -> ImageFont.ImageFont:
    """Pillow's own font at `size` pixels: the same on every machine, no font file needed."""
    return ImageFont.load_default(size)


def drawable(text: str) -> str:
    """`text` on one line, in characters that the font has.

    An accented letter loses its accent; what has no plain form becomes an escape (backslash, u,
    four hexadecimal digits).
    """
    text = unicodedata.normalize("NFC", " ".join(text.split())).translate(_PLAIN)
    return "".join(c if _has_glyph(c) else _plain_or_escape(c) for c in text)


def shorten(text: str, size: int, width: float, n_lines: int = 1) -> list[str]:
    """Breaks `text` at spaces into at most `n_lines` lines of `width` pixels, with … at a cut.

    A single word that is too long is cut within.
    """
    lines: list[str] = []
    words = drawable(text).split(" ")
    while words and len(lines) < n_lines - 1:
        line = words.pop(0)
        while words and font(size).getlength(f"{line} {words[0]}") <= width:
            line = f"{line} {words.pop(0)}"
        lines.append(_cut(line, size, width))
    if words:
        lines.append(_cut(" ".join(words), size, width))
    return lines


def _cut(line: str, size: int, width: float) -> str:
    if font(size).getlength(line) <= width:
        return line
    while line and font(size).getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"


@functools.cache
def _has_glyph(character: str) -> bool:
    if character == " ":
        return True
    if not character.isprintable():
        return False
    try:
        return _pixels(character) != _pixels(_MISSING)
    except UnicodeEncodeError:  # the bitmap font of a Pillow built without FreeType: Latin-1 only
        return False


def _pixels(character: str) -> tuple:
    mask = font(20).getmask(character)
    return mask.size, bytes(mask)


def _plain_or_escape(character: str) -> str:
    base = unicodedata.normalize("NFKD", character)[0]
    if base.isascii() and base.isprintable():
        return base
    return character.encode("unicode_escape").decode("ascii")
