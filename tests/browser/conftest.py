"""Tests that open a page in a browser are collected where there is one; .ci/run installs it."""

import shutil

import pytest

from benchmarks.browser import NAMES

BROWSER = next(filter(None, map(shutil.which, NAMES)), None)

if BROWSER is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def browser() -> str:
    """The program to run."""
    return BROWSER
