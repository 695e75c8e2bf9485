"""What a run was made with: versions, code revision, machine. Imports no TensorFlow."""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jest_tf

PACKAGES = (
    "tensorflow", "tensorflow-tpu", "libtpu", "tensorflow-text", "tensorflow-datasets", "keras",
    "keras-cv", "tensorboard", "ml_collections", "absl-py", "numpy", "pillow", "protobuf",
)  # fmt: skip
GIT_SECONDS = 10


def collect() -> dict[str, Any]:
    """JSON-serialisable description of this process's environment.

    `packages` name → version or None; `git` revision and dirty flag, or None outside a repository;
    `python`, `platform`, `cpu`, `n_cpus`, `memory_bytes`, `host`, `argv`, `started_utc`, `jest_tf`.
    """
    lines = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "jest_tf": jest_tf.__version__,
        "git": git_state(Path(jest_tf.__file__).resolve().parent),
        "packages": {name: package_version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": next(models, platform.processor() or platform.machine()),
        "n_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "host": socket.gethostname(),
        "argv": sys.argv,
        "started_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def package_version(name: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def git_state(folder: Path) -> dict[str, Any] | None:
    """Revision of the repository around `folder`, and whether tracked files differ; or None."""
    revision = _git(folder, "rev-parse", "HEAD")
    # An installed copy may lie inside some other project's repository: its revision is not ours.
    if not revision or not _git(folder, "ls-files", "."):
        return None
    is_dirty = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    return {"revision": revision, "dirty": is_dirty}


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    how = {"capture_output": True, "text": True, "errors": "replace", "timeout": GIT_SECONDS}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, check=True, **how).stdout.strip()
    return None
