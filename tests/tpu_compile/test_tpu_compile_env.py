"""launch/tpu_compile_env.sh: what it would do, what it does with a stand-in Python, and twice."""

import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "tpu_compile_env.sh"
PINS = ROOT / "jest_tf" / "preflight" / "tpu_compile" / "requirements.txt"


def run(*arguments, code=0) -> str:
    command = [str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=1200)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def venv(tmp_path):
    """An environment whose Python writes down how it is called."""
    python = tmp_path / "an env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$*" >>"{tmp_path}/calls"\n')
    python.chmod(0o755)
    return python.parents[1]


def test_dry_run_changes_nothing(venv):
    out = run("--dry-run", "--venv", venv)
    assert f"-m pip install --disable-pip-version-check --no-compile --requirement {PINS}" in out
    assert [p.name for p in venv.iterdir()] == ["bin"]


def test_installs_once_and_hides_from_git(venv, tmp_path):
    run("--venv", venv)
    calls = (tmp_path / "calls").read_text()
    assert f"install --disable-pip-version-check --no-compile --requirement {PINS}" in calls
    assert (venv / ".gitignore").read_text() == "*\n"
    assert "is up to date" in run("--venv", venv)
    assert (tmp_path / "calls").read_text() == calls
    (venv / "installed.txt").write_text("jax==0.1\n")  # the pins have changed since
    assert "is up to date" not in run("--venv", venv)


def test_a_failed_installation_is_done_again(venv):
    (venv / "bin" / "python").write_text('#!/bin/sh\n[ "$3" = --version ] || exit 3\n')
    run("--venv", venv, code=3)
    assert not (venv / "installed.txt").exists()


def test_pins_are_exact_and_not_the_packages_own():
    lines = [line for line in PINS.read_text().splitlines() if not line.startswith("#")]
    assert {line.split("==")[0] for line in lines} == {"jax", "jaxlib", "libtpu"}
    assert all(line.count("==") == 1 for line in lines)


def test_unknown_arguments_are_refused():
    assert "unknown argument --nope" in run("--nope", code=2)
