"""Versions and revision as the tools themselves report them."""

import json
import os
import subprocess

import tensorflow as tf

from jest_tf.monitoring import environment


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_versions_of_what_is_running():
    found = environment.collect()
    assert found["packages"]["tensorflow"] == tf.__version__
    assert found["packages"]["libtpu"] is None
    assert found["n_cpus"] >= 1 and found["memory_bytes"] > 1e8
    json.dumps(found)


def test_git_state_clean_dirty_and_foreign(tmp_path):
    package = tmp_path / "with space" / "package"
    package.mkdir(parents=True)
    assert environment.git_state(package) is None
    git(tmp_path, "init")
    (tmp_path / "other.txt").write_text("x")
    git(tmp_path, "add", "other.txt")
    git(tmp_path, "commit", "-m", "x")
    assert environment.git_state(package) is None, "another project's revision is not ours"
    (package / "a.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "y")
    state = environment.git_state(package)
    assert len(state["revision"]) == 40 and state["dirty"] is False
    (package / "new.py").write_text("untracked files do not count")
    assert environment.git_state(package)["dirty"] is False
    (package / "a.py").write_text("2")
    assert environment.git_state(package)["dirty"] is True


def test_no_git_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    assert environment.git_state(tmp_path) is None
