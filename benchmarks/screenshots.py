"""Photographs the project's HTML pages for the docs, in headless Chromium.

    python -m benchmarks.screenshots --workdir=runs/quickstart/joint \
        --compare=runs/quickstart/uniform --data_report=data_report/data_report.html \
        --quickstart=runs/quickstart/index.html

Writes docs/report.png (the report on the runs), docs/data_report.png (the page that
`jest check --all_records` wrote) and docs/quickstart.png. Only the pages that are asked for are
made.
"""

import pathlib
import shutil
import subprocess
import tempfile

from absl import flags

from jest_tf import cli
from jest_tf.errors import UserError
from jest_tf.report import write_report

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string("workdir", "", "The run to report on.", flag_values=FLAGS)
_COMPARE = flags.DEFINE_list("compare", [], "Runs to show beside it.", flag_values=FLAGS)
_DATA_REPORT = flags.DEFINE_string("data_report", "", "data_report.html", flag_values=FLAGS)
_QUICKSTART = flags.DEFINE_string("quickstart", "", "The quickstart's page.", flag_values=FLAGS)
_OUT = flags.DEFINE_string("out", "docs", "Folder of the pictures.", flag_values=FLAGS)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# --no-sandbox: as root, as in containers, there is none. The pages are our own, without scripts.
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
LIGHT = "--blink-settings=preferredColorScheme=1"


def main(argv: list[str]) -> None:
    """Makes what is asked for."""
    del argv
    out = pathlib.Path(_OUT.value)
    with tempfile.TemporaryDirectory() as folder:
        if _WORKDIR.value:
            page = pathlib.Path(folder) / "report.html"
            write_report([_WORKDIR.value, *_COMPARE.value], page)
            photograph(page, out / "report.png", 1200, 1500)
        if _DATA_REPORT.value:
            photograph(pathlib.Path(_DATA_REPORT.value), out / "data_report.png", 1200, 680)
        if _QUICKSTART.value:
            photograph(pathlib.Path(_QUICKSTART.value), out / "quickstart.png", 1200, 1100)


def photograph(page: pathlib.Path, picture: pathlib.Path, width: int, height: int) -> None:
    """The upper left corner of a page, light, as a PNG.

    Raises:
      UserError: there is no browser, or it fails.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError(f"none of {', '.join(BROWSERS)} is installed; install Chromium.")
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [browser, *OPTIONS, LIGHT, f"--user-data-dir={profile}",
             f"--window-size={width},{height}", f"--screenshot={picture.resolve()}",
             page.resolve().as_uri()],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode or not picture.exists():
        raise UserError(f"{browser} could not open {page}: {done.stderr.strip()[-300:]}")
    print(f"{picture} written")


if __name__ == "__main__":
    cli.run(main, FLAGS)
