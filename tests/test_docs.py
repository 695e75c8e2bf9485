"""The pages for people: no dead link, no command that is not there, and every page is found."""

import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "data").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def links(page: pathlib.Path) -> list[str]:
    return LINK.findall(page.read_text(encoding="utf-8"))


def heading_anchors(page: pathlib.Path) -> set[str]:
    """As GitHub makes them: lower case, no punctuation, hyphens for spaces."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_link_is_dead(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        if ":" in path:
            continue  # another site: not asked for without network
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in heading_anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_named_is_a_module(page):
    for name in re.findall(r"python -m (jest_tf[\w.]*\w)", page.read_text(encoding="utf-8")):
        assert importlib.util.find_spec(name), name


def test_every_page_of_docs_is_linked_from_somewhere():
    linked = {(page.parent / link.partition("#")[0]).resolve() for page in PAGES
              for link in links(page) if ":" not in link}  # fmt: skip
    missing = [p.name for p in (ROOT / "docs").glob("*.md") if p.resolve() not in linked]
    assert missing == []


def test_pages_stay_short_enough_to_be_read():
    lengths = {"README.md": 120, "docs/results.md": 200}
    for name, most in lengths.items():
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= most, name
    assert sum(path.is_file() for path in (ROOT / "docs").rglob("*")) <= 60


def test_every_page_of_docs_is_in_the_index():
    index = ROOT / "docs" / "index.md"
    listed = {(index.parent / link).resolve() for link in links(index)} | {index}
    assert {p.resolve() for p in (ROOT / "docs").glob("*.md")} - listed == set()
