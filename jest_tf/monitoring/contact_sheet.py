"""A picture of what queries found: one row per query, its images left to right, best first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from jest_tf.data.cleaning import read_picture
from jest_tf.monitoring.text import drawable, font, shorten

_PAGE, _INK, _FAINT, _LINE, _TILE = "#ffffff", "#1c1e21", "#6b7280", "#e5e7eb", "#f3f4f6"
_QUERY_SIZE, _SMALL_SIZE, _TITLE_SIZE = 17, 12, 20
_MARGIN, _GAP, _QUERY_WIDTH = 20, 10, 190


@dataclass(frozen=True)
class Hit:
    """One found image: what to show under it. `image` is None where it could not be read."""

    image: Image.Image | None
    score: float
    label: str = ""


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
    """Draws the rows under each other.

    Args:
        rows: at least one; rows may differ in length.
        title: one line above all rows.
        tile: side of an image in pixels.
        label_lines: for a label; what does not fit is cut.
        query_width: room for the queries at the left in pixels; 0 where no row has any.

    Returns:
        RGB image, as wide as its longest row.
    """
    columns = max((len(row.hits) for row in rows), default=0)
    top = _MARGIN + (_TITLE_SIZE + 2 * _GAP if title else 0)
    row_height = tile + (1 + label_lines) * (_SMALL_SIZE + 4) + 2 * _GAP
    width = 2 * _MARGIN + query_width + columns * (tile + _GAP)
    height = top + len(rows) * row_height + _MARGIN - _GAP
    page = Image.new("RGB", (width, height), _PAGE)
    draw = ImageDraw.Draw(page)
    if title:
        line = shorten(title, _TITLE_SIZE, width - 2 * _MARGIN)[0]
        draw.text((_MARGIN, _MARGIN - 4), line, _INK, font(_TITLE_SIZE))
    for number, row in enumerate(rows):
        y = top + number * row_height
        draw.line((_MARGIN, y, width - _MARGIN, y), _LINE)
        if query_width:
            _draw_query(page, draw, row, y + _GAP, tile, query_width - 2 * _GAP)
        for column, hit in enumerate(row.hits):
            x = _MARGIN + query_width + column * (tile + _GAP)
            _draw_hit(page, draw, hit, x, y + _GAP, tile, label_lines)
    return page


def thumbnail(image: Image.Image, tile: int) -> Image.Image:
    """`image` on a square tile, whole, centred, over the tile's grey where it is transparent."""
    image = image.convert("RGBA")
    factor = tile / max(image.size)
    size = [max(1, round(side * factor)) for side in image.size]
    image = image.resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGB", (tile, tile), _TILE)
    square.paste(image, ((tile - image.width) // 2, (tile - image.height) // 2), image)
    return square


def shrunk(image: Image.Image, size: int) -> Image.Image:
    """`image` as RGB, its longer side at most `size` pixels, white where it is transparent."""
    # Palette images keep their transparency only through RGBA.
    image = image.convert("RGBA")
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    opaque = Image.new("RGB", image.size, _PAGE)
    opaque.paste(image, mask=image)
    return opaque


def _draw_query(
    page: Image.Image, draw: ImageDraw.ImageDraw, row: Row, y: int, tile: int, width: int
) -> None:
    if row.image is not None:
        page.paste(thumbnail(row.image, tile), (_MARGIN, y))
        _draw_lines(draw, shorten(row.text, _SMALL_SIZE, width), _SMALL_SIZE, _MARGIN, y + tile + 4)
        return
    lines = shorten(row.text, _QUERY_SIZE, width, n_lines=4)
    _draw_lines(draw, lines, _QUERY_SIZE, _MARGIN, y + (tile - len(lines) * (_QUERY_SIZE + 4)) // 2)


def _draw_hit(
    page: Image.Image,
    draw: ImageDraw.ImageDraw,
    hit: Hit,
    x: int,
    y: int,
    tile: int,
    label_lines: int,
) -> None:
    if hit.image is None:
        draw.rectangle((x, y, x + tile - 1, y + tile - 1), _TILE)
        draw.text((x + 8, y + tile // 2 - 8), "not readable", _FAINT, font(_SMALL_SIZE))
    else:
        page.paste(thumbnail(hit.image, tile), (x, y))
    draw.text((x, y + tile + 4), f"{hit.score:.3f}", _INK, font(_SMALL_SIZE))
    if drawable(hit.label):
        lines = shorten(hit.label, _SMALL_SIZE, tile, label_lines)
        _draw_lines(draw, lines, _SMALL_SIZE, x, y + tile + 8 + _SMALL_SIZE, _FAINT)


def _draw_lines(
    draw: ImageDraw.ImageDraw, lines: Sequence[str], size: int, x: int, y: int, ink: str = _INK
) -> None:
    for number, line in enumerate(lines):
        draw.text((x, y + number * (size + 4)), line, ink, font(size))


def open_image(open_file: Callable) -> Image.Image | None:
    """The image behind `open_file("rb")` (e.g. `path.open`), or None where it cannot be read."""
    try:
        with open_file("rb") as file:
            return read_picture(file.read())
    except Exception:  # Pillow raises many types; each means one unusable image
        return None
