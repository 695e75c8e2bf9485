"""The search page as a person uses it: typed, clicked, with the keyboard, on a phone's width."""

import threading

import pytest
import waitress
from small_pictures import SmallEncoder, write_pictures

from benchmarks.browser import Browser
from jest_tf.serving.indexing import add_images
from jest_tf.serving.querying import Searcher
from jest_tf.serving.web import make_app

N_PICTURES, SHOWN = 60, 48
SHOWS_ALL = f"document.querySelectorAll('.tile img').length == {SHOWN}"
FIRST_IS_DRAWN = "document.querySelector('.tile img')?.naturalWidth > 0"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """(address, pictures) of a search page."""
    folder = tmp_path_factory.mktemp("site")
    encoder = SmallEncoder()
    paths = write_pictures(folder / "photos", N_PICTURES)
    add_images(folder / "index", str(folder / "photos"), encoder)
    searcher = Searcher(folder / "index", encoders={encoder.fingerprint: encoder})
    server = waitress.create_server(make_app({"index": searcher}), port=0)
    threading.Thread(target=server.run, daemon=True).start()
    yield f"http://127.0.0.1:{server.effective_port}", paths
    server.close()


def test_typing_finds_pictures_and_a_click_their_neighbours(site):
    url, paths = site
    with Browser(400, 800, dark=True) as browser:
        browser.open(url)
        browser.type("#text", "a red dog")
        browser.wait(SHOWS_ALL)
        browser.wait(FIRST_IS_DRAWN)
        browser.wait("document.URL.endsWith('/?text=a+red+dog')")  # to be shared as it is
        assert browser.value("document.documentElement.scrollWidth") == 400
        back = browser.value("getComputedStyle(document.body).backgroundColor")
        assert back == "rgb(21, 23, 26)"
        first = browser.value("document.querySelector('.tile').title")
        browser.click(".tile")
        browser.wait("location.search.includes('row=')")
        browser.wait("document.querySelector('.one img')?.naturalWidth > 0")
        assert browser.value("document.querySelector('.one .lead').textContent") == first
        assert browser.value("document.querySelector('.tile').title") != first
        browser.open(f"{url}/?text=a+red+dog")
        assert browser.value("document.querySelector('.tile').title") == first
        browser.upload("#file", paths[7])
        browser.wait("document.querySelector('#mine')?.naturalWidth > 0")
        assert browser.value("document.querySelector('.tile').title") == paths[7].name


def test_the_keyboard_alone_is_enough_and_errors_are_said(site, tmp_path):
    url, _ = site
    with Browser(1400, 900) as browser:
        browser.open(f"{url}/?text=dog")
        browser.wait(SHOWS_ALL)
        browser.press("/")
        browser.press("ArrowDown")
        browser.press("ArrowRight")
        browser.press("ArrowDown")
        at = "[...document.querySelectorAll('.tile')].indexOf(document.activeElement)"
        columns = browser.value(
            "[...document.querySelectorAll('.tile')].filter(t => t.offsetTop == "
            "document.querySelector('.tile').offsetTop).length"
        )
        assert browser.value(at) == 1 + columns > 4
        address = browser.value("document.activeElement.getAttribute('href')")
        browser.press("Enter")
        browser.wait(f"document.URL.endsWith({address!r})")
        (tmp_path / "no.png").write_bytes(b"no picture")
        browser.wait("document.readyState == 'complete'")
        browser.upload("#file", tmp_path / "no.png")
        said = browser.wait("document.getElementById('message').textContent")
        assert "not a readable image" in said
