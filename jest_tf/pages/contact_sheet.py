"""A picture of what queries found: one row per query, its images left to right, best first."""

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

_PAGE, _INK, _FAINT, _LINE, _TILE = "#ffffff", "#1c1e21", "#6b7280", "#e5e7eb", "#f3f4f6"
_QUERY_SIZE, _SMALL_SIZE, _TITLE_SIZE = 16, 11, 19  # pixels
_MARGIN, _GAP, _QUERY_WIDTH = 20, 10, 190
_DPI = 100
_WIDTH = 0.6  # of a letter, in parts of its height, on average and a little more
# matplotlib brings DejaVu; the others draw what it lacks, where they are installed.
_FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans", "Noto Emoji", "Arial Unicode MS")


@dataclass(frozen=True)
class Hit:
    """One found image (None: unreadable) and its label; of one that `is_name` the end stays."""

    image: Image.Image | None
    score: float
    label: str = ""
    is_name: bool = False


@dataclass(frozen=True)
class Row:
    """One query (a text, an image, or both) and what it found, best first."""

    text: str
    hits: Sequence[Hit]
    image: Image.Image | None = None


def contact_sheet(
    rows: Sequence[Row],
    title: str = "",
    tile: int = 96,
    label_lines: int = 1,
    query_width: int = _QUERY_WIDTH,
) -> Image.Image:
    """Draws the rows under each other; sizes in pixels. RGB, as wide as the longest row.

    label_lines: what does not fit is cut. query_width: room for queries at the left, 0 without.
    """
    columns = max((len(row.hits) for row in rows), default=0)
    top = _MARGIN + (_TITLE_SIZE + 2 * _GAP if title else 0)
    row_height = tile + (1 + label_lines) * (_SMALL_SIZE + 4) + 2 * _GAP
    width = 2 * _MARGIN + query_width + columns * (tile + _GAP)
    sheet = _Sheet(width, top + len(rows) * row_height + _MARGIN - _GAP)
    if title:
        sheet.text(_MARGIN, _MARGIN - 6, title, _TITLE_SIZE, width - 2 * _MARGIN)
    for number, row in enumerate(rows):
        y = top + number * row_height
        sheet.line(y)
        if query_width:
            inner = query_width - 2 * _GAP
            if row.image is None:
                sheet.text(_MARGIN, y + _GAP + tile // 4, row.text, _QUERY_SIZE, inner, n_lines=4)
            else:
                sheet.paste(thumbnail(row.image, tile), _MARGIN, y + _GAP)
                name = end_of(row.text, int(inner / (_WIDTH * _SMALL_SIZE)))
                sheet.text(_MARGIN, y + _GAP + tile + 4, name, _SMALL_SIZE, inner)
        for column, hit in enumerate(row.hits):
            x = _MARGIN + query_width + column * (tile + _GAP)
            _draw_hit(sheet, hit, x, y + _GAP, tile, label_lines)
    return sheet.image()


class _Sheet:
    """A figure whose unit is the pixel, from the upper left corner."""

    def __init__(self, width: int, height: int):
        self._width, self._height = width, height
        self._figure = Figure((width / _DPI, height / _DPI), dpi=_DPI, facecolor=_PAGE)
        FigureCanvasAgg(self._figure)

    def text(
        self, x: int, y: int, text: str, size: int, width: int, n_lines: int = 1, ink: str = _INK
    ) -> None:
        """At most `n_lines` lines; the upper left corner is at (x, y)."""
        lines = wrapped(text, int(width / (_WIDTH * size)), n_lines)
        self._figure.text(
            x / self._width, 1 - y / self._height, "\n".join(lines), color=ink, va="top",
            fontsize=size * 72 / _DPI, linespacing=1.25, parse_math=False,
        )  # fmt: skip

    def paste(self, picture: Image.Image, x: int, y: int) -> None:
        pixels = np.asarray(picture)
        self._figure.figimage(pixels, x, self._height - y - len(pixels), origin="upper")

    def line(self, y: int) -> None:
        self.paste(Image.new("RGB", (self._width - 2 * _MARGIN, 1), _LINE), _MARGIN, y)

    def image(self) -> Image.Image:
        known = {font.name for font in matplotlib.font_manager.fontManager.ttflist}
        fonts = [name for name in _FONTS if name in known]
        with warnings.catch_warnings(), matplotlib.rc_context({"font.family": fonts}):
            warnings.filterwarnings("ignore", "Glyph")  # A letter of no font becomes a box.
            for text in self._figure.texts:
                text.set_fontfamily(fonts)
            self._figure.canvas.draw()
        return Image.fromarray(np.asarray(self._figure.canvas.buffer_rgba())).convert("RGB")


def wrapped(text: str, n_letters: int, n_lines: int = 1) -> list[str]:
    """`text` in at most `n_lines` lines of `n_letters`, broken at spaces, with … at a cut."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return textwrap.wrap(text, max(2, n_letters), max_lines=n_lines, placeholder="…") or [""]


def end_of(name: str, n_letters: int) -> str:
    """The end of a name, which tells files of one folder apart, with … at a cut."""
    return name if len(name) <= n_letters else "…" + name[len(name) - n_letters + 1 :]


def thumbnail(image: Image.Image, tile: int) -> Image.Image:
    """`image` on a square tile, whole, centred, over the tile's grey where it is transparent."""
    image = image.convert("RGBA")
    factor = tile / max(image.size)
    size = [max(1, round(side * factor)) for side in image.size]
    image = image.resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGB", (tile, tile), _TILE)
    square.paste(image, ((tile - image.width) // 2, (tile - image.height) // 2), image)
    return square


def _draw_hit(sheet: _Sheet, hit: Hit, x: int, y: int, tile: int, label_lines: int) -> None:
    if hit.image is None:
        sheet.paste(Image.new("RGB", (tile, tile), _TILE), x, y)
        sheet.text(x + 8, y + tile // 2 - 8, "not readable", _SMALL_SIZE, tile, ink=_FAINT)
    else:
        sheet.paste(thumbnail(hit.image, tile), x, y)
    sheet.text(x, y + tile + 4, f"{hit.score:.3f}", _SMALL_SIZE, tile)
    n_letters = label_lines * int(tile / (_WIDTH * _SMALL_SIZE))
    label = end_of(hit.label, n_letters) if hit.is_name else hit.label
    sheet.text(x, y + tile + 8 + _SMALL_SIZE, label, _SMALL_SIZE, tile, label_lines, _FAINT)
