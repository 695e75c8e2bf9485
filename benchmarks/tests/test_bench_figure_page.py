"""The pages of figures show the figures that were kept."""

import pytest

from benchmarks.audit_seeds import PAGE as AUDIT
from benchmarks.figure_page import COST, DISTRIBUTED, INPUT, FigurePage

PAGES = [INPUT, COST, DISTRIBUTED, AUDIT]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.page.stem)
def test_pages_show_the_kept_figures(page):
    assert page.load()
    assert page.table() in page.page.read_text(encoding="utf-8")


def test_a_new_line_replaces_the_one_of_its_case(tmp_path):
    text = tmp_path / "page.md"
    text.write_text("before\n<!-- figures: made -->\nold\n<!-- /figures -->\nafter\n")
    page = FigurePage(tmp_path / "figures.jsonl", text, ("source_px",))
    line = {"figure": "rate", "value": 1.0, "goal": ">= 2", "unit": "x", "source_px": 512}
    page.keep([line, line | {"source_px": 256}])
    page.keep([line | {"value": 2.5}])
    assert [kept["value"] for kept in page.load()] == [2.5, 1.0]
    assert "| `rate` | >= 2 | 2.5 x | 512 px JPEGs |" in text.read_text()
    assert "old" not in text.read_text()
    assert text.read_text().endswith("<!-- /figures -->\nafter\n")
