"""The gate's own tests run where launch/tpu_compile_env.sh has made its environment."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
ENVIRONMENT = os.environ.get("JEST_TPU_COMPILE_ENV", str(ROOT / ".venv-tpu-compile"))
GATED = ["test_tpu_compile_gate.py", "test_accelerator_bundle.py"]
# Not collected without it, rather than skipped: the environment is optional, 1.3 GB large.
collect_ignore = [] if os.path.exists(f"{ENVIRONMENT}/bin/python") else GATED


@pytest.fixture
def environment() -> str:
    return ENVIRONMENT
