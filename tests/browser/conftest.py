"""Tests that open a page in a browser are collected where there is one; .ci/run installs it."""

import shutil

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)

if BROWSER is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def browser() -> str:
    """The program to run."""
    return BROWSER
