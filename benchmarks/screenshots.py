"""Photographs the project's HTML pages for the docs, in headless Chromium.

    python -m benchmarks.screenshots --workdir=runs/quickstart/joint \
        --compare=runs/quickstart/uniform --data_report=data_report/data_report.html \
        --quickstart=runs/quickstart/index.html --audit=audit.html --index=INDEX \
        --tensorboard=runs/quickstart

Writes docs/report.png (the report on the runs), docs/data_report.png (the page that
`jest check --all_records` wrote), docs/quickstart.png, docs/audit.png, docs/search.png
(`jest serve` on an index) and docs/tensorboard.png. Only the pages that are asked for are made.
"""

import contextlib
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

from absl import flags
from PIL import Image

from benchmarks.browser import Browser
from benchmarks.serving import Server
from jest_tf import cli
from jest_tf.report import write_report

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string("workdir", "", "The run to report on.", flag_values=FLAGS)
_COMPARE = flags.DEFINE_list("compare", [], "Runs to show beside it.", flag_values=FLAGS)
_DATA_REPORT = flags.DEFINE_string("data_report", "", "data_report.html", flag_values=FLAGS)
_QUICKSTART = flags.DEFINE_string("quickstart", "", "The quickstart's page.", flag_values=FLAGS)
_AUDIT = flags.DEFINE_string("audit", "", "The page of `jest audit`.", flag_values=FLAGS)
_INDEX = flags.DEFINE_string("index", "", "An index to search.", flag_values=FLAGS)
_QUERY = flags.DEFINE_string("query", "red heart", "What to search for.", flag_values=FLAGS)
_TENSORBOARD = flags.DEFINE_string("tensorboard", "", "Folder of runs.", flag_values=FLAGS)
_OUT = flags.DEFINE_string("out", "docs", "Folder of the pictures.", flag_values=FLAGS)

DRAWN = "[...document.images].every(i => i.complete || i.getBoundingClientRect().top > 2000)"


def main(argv: list[str]) -> None:
    """Makes what is asked for."""
    del argv
    out = pathlib.Path(_OUT.value)
    with tempfile.TemporaryDirectory() as folder:
        if _WORKDIR.value:
            page = pathlib.Path(folder) / "report.html"
            write_report([_WORKDIR.value, *_COMPARE.value], page)
            photograph(page.as_uri(), out / "report.png", 1200, 1500)
        if _DATA_REPORT.value:
            page = pathlib.Path(_DATA_REPORT.value).resolve()
            photograph(page.as_uri(), out / "data_report.png", 1200, 680)
        if _QUICKSTART.value:
            page = pathlib.Path(_QUICKSTART.value).resolve()
            photograph(page.as_uri(), out / "quickstart.png", 1200, 1100)
        if _AUDIT.value:
            page = pathlib.Path(_AUDIT.value).resolve()
            photograph(page.as_uri(), out / "audit.png", 1200, 1200)
        if _INDEX.value:
            with Server(pathlib.Path(_INDEX.value)) as server:
                host, port = server.address
                query = urllib.parse.urlencode({"text": _QUERY.value})
                photograph(f"http://{host}:{port}/?{query}", out / "search.png", 1200, 720)
        if _TENSORBOARD.value:
            with tensorboard(_TENSORBOARD.value) as url:
                # Its charts lie in shadow trees, so nothing tells that they are drawn.
                drawn = "performance.now() > 60000"
                photograph(f"{url}/#custom_scalars", out / "tensorboard.png", 1200, 900, drawn)


def photograph(url: str, picture: pathlib.Path, width: int, height: int, ready=DRAWN) -> None:
    """The upper left corner of a page, light, as a PNG, as soon as the expression `ready` is true.

    Raises:
      UserError: there is no browser.
    """
    with Browser(width, height) as browser:
        browser.open(url)
        browser.wait(ready)
        browser.screenshot(picture)
    with Image.open(picture) as shot:  # 256 colours: a third of the bytes
        shot.convert("RGB").quantize(256).save(picture, optimize=True)
    print(f"{picture} written")


@contextlib.contextmanager
def tensorboard(folder: str):
    """The address of a TensorBoard that runs inside."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [f"--logdir={folder}", f"--port={port}", "--host=127.0.0.1", "--load_fast=false"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *words], stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            with contextlib.suppress(OSError), urllib.request.urlopen(url) as answer:
                answer.read()
                break
            if process.poll() is not None:
                raise RuntimeError("TensorBoard did not start")
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    cli.run(main, FLAGS)
