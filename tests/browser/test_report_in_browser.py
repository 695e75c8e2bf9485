"""The report in a real browser, offline: laid out, drawn, in light and in dark."""

import subprocess

import numpy as np
import pytest
from PIL import Image
from sample_workdir import make_run

from jest_tf.report import write_report

# --no-sandbox: as root, as in containers, there is none. The page is our own and has no script.
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--window-size=1300,2400",
)
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND"
# Blink's setting: 0 is dark, 1 is light.
SCHEMES = {"light": (1, (255, 255, 255), (11, 98, 196)), "dark": (0, (21, 23, 26), (108, 176, 255))}


def run_browser(browser, tmp_path, *arguments) -> str:
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [browser, *OPTIONS, OFFLINE, profile, *arguments],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def page(tmp_path):
    runs = [make_run(tmp_path / "runs" / p, policy=p) for p in ("joint", "uniform")]
    out = tmp_path / "a report é.html"
    write_report([str(run) for run in runs], out)
    return out


def near(pixels: np.ndarray, color: tuple[int, int, int]) -> int:
    """How many pixels have this colour, up to antialiasing."""
    return int((np.abs(pixels.astype(int) - color).max(axis=-1) <= 8).sum())


def test_is_drawn_in_light_and_dark(browser, page, tmp_path):
    for scheme, (setting, background, first_line) in SCHEMES.items():
        shot = tmp_path / f"{scheme}.png"
        run_browser(
            browser, tmp_path, f"--blink-settings=preferredColorScheme={setting}",
            f"--screenshot={shot}", page.as_uri(),
        )  # fmt: skip
        pixels = np.asarray(Image.open(shot).convert("RGB"))
        assert pixels.shape == (2400, 1300, 3)
        assert 0.5 < near(pixels, background) / (2400 * 1300) < 0.98, scheme
        assert near(pixels, first_line) > 300, scheme
        # Nothing is cut off at the right: its margin is empty.
        assert near(pixels[:, -10:], background) > 0.99 * 10 * 2400, scheme


def test_nothing_is_cut_off_on_a_phone(browser, page, tmp_path):
    shot = tmp_path / "phone.png"
    run_browser(
        browser, tmp_path, "--blink-settings=preferredColorScheme=1", "--window-size=400,3000",
        f"--screenshot={shot}", page.as_uri(),
    )  # fmt: skip
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    background, first_line = SCHEMES["light"][1:]
    assert near(pixels[:, -10:], background) > 0.99 * 10 * len(pixels)
    assert near(pixels, first_line) > 300


def test_the_browser_builds_what_was_written(browser, page, tmp_path):
    dom = run_browser(browser, tmp_path, "--dump-dom", page.as_uri())
    written = page.read_text(encoding="utf-8")
    for tag in ("<svg", "<img", "<section", "<path", "<details"):
        assert dom.count(tag) == written.count(tag) > 0
    assert "<script" not in dom
