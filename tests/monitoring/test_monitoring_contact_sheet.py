"""The contact sheet: what is drawn where, and text that the font cannot draw."""

import io

import numpy as np
import pytest
from PIL import Image

from jest_tf.monitoring.contact_sheet import Hit, Row, contact_sheet, open_image, thumbnail
from jest_tf.monitoring.text import drawable, font, shorten


def test_one_row_a_query_and_one_tile_a_hit():
    colours = ["#ff0000", "#00ff00", "#0000ff"]
    hits = [Hit(Image.new("RGB", (8, 8), c), 0.5, "x") for c in colours]
    page = np.asarray(contact_sheet([Row("one", hits), Row("two", hits[:2])], tile=32))
    for colour, n_tiles in zip(colours, (2, 2, 1), strict=True):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (page == rgb).all(axis=-1).sum() == n_tiles * 32 * 32
    red, blue = ((page == rgb).all(axis=-1).nonzero()[1] for rgb in ([255, 0, 0], [0, 0, 255]))
    assert red.max() < blue.min()  # the best hit stands on the left


def test_unreadable_hits_empty_rows_and_any_text_are_drawn():
    rows = [
        Row("犬 chien été 😀 \x00\n\t", [Hit(None, float("nan"), "ラベル" * 40)]),
        Row("", []),
        Row("word " * 100, [], image=Image.new("P", (300, 10))),
    ]
    page = contact_sheet(rows, title="Заголовок " * 50)
    assert page.mode == "RGB" and page.width < 500


def test_drawable_keeps_plain_text_and_escapes_the_rest():
    assert drawable("a dog, 50% (x) – é “q”") == 'a dog, 50% (x) - e "q"'
    assert drawable("犬\x07😀") == "\\u72ac\\x07\\U0001f600"
    assert drawable("two\n lines") == "two lines"


def test_shorten_fits_the_width():
    text = "several words that will not fit on a line " + "x" * 80
    lines = shorten(text, 12, 100, n_lines=3)
    assert len(lines) == 3 and lines[-1].endswith("…")
    assert all(font(12).getlength(line) <= 100 for line in lines)
    assert shorten("short", 12, 100, n_lines=3) == ["short"]


def test_thumbnail_keeps_the_aspect_and_fills_what_is_transparent():
    wide = np.asarray(thumbnail(Image.new("RGBA", (200, 100), (255, 0, 0, 255)), 40))
    assert (wide[5] != [255, 0, 0]).any() and (wide[20] == [255, 0, 0]).all()
    clear = np.asarray(thumbnail(Image.new("RGBA", (10, 10), (0, 0, 0, 0)), 40))
    assert clear.min() > 200


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken"])
def test_open_image_gives_none_for_what_is_no_image(content):
    assert open_image(lambda mode: io.BytesIO(content)) is None


def test_open_image_gives_none_for_a_missing_file(tmp_path):
    assert open_image((tmp_path / "missing.png").open) is None
