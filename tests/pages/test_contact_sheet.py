"""The contact sheet: what is drawn where, and which part of a long text stays."""

import numpy as np
from PIL import Image

from jest_tf.pages.contact_sheet import (
    Hit,
    Row,
    contact_sheet,
    end_of,
    thumbnail,
    wrapped,
)


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


def test_a_long_name_keeps_its_end_and_a_long_caption_its_beginning():
    assert end_of("holiday/2024/rome/IMG_4711.jpg", 14) == "…/IMG_4711.jpg"
    assert end_of("a.jpg", 14) == "a.jpg"
    lines = wrapped("several words that will not fit on a line " + "x" * 80, 16, n_lines=3)
    assert lines[0] == "several words" and len(lines) == 3 and lines[-1].endswith("…")
    assert wrapped("two\n lines\x00", 20) == ["two  lines"]
    assert wrapped("", 20) == [""]


def test_a_text_with_formula_signs_is_drawn_as_it_is():
    assert contact_sheet([Row("$100 $\\frac", [Hit(None, 0.1, "a$b$c_$")])]).width > 100


def test_thumbnail_keeps_the_aspect_and_fills_what_is_transparent():
    wide = np.asarray(thumbnail(Image.new("RGBA", (200, 100), (255, 0, 0, 255)), 40))
    assert (wide[5] != [255, 0, 0]).any() and (wide[20] == [255, 0, 0]).all()
    clear = np.asarray(thumbnail(Image.new("RGBA", (10, 10), (0, 0, 0, 0)), 40))
    assert clear.min() > 200
