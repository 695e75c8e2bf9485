"""The bundle, made small, runs where there is jax and no TensorFlow, and picks what we pick."""

import json
import subprocess

from benchmarks.accelerator.export import export
from benchmarks.accelerator.page import page
from benchmarks.accelerator.programs import TINY


def test_the_bundle_runs_without_this_package(environment, tmp_path, monkeypatch):
    monkeypatch.setenv("JEST_TPU_COMPILE_ENV", environment)
    monkeypatch.setitem(TINY, "depth", 1)  # more are only more of them
    programs = export(tmp_path, tiny=True)
    command = [f"{environment}/bin/python", "run.py", "--repeats=1"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (lines, done.stderr[-2000:])
    ours = [line for line in lines if not line.get("name", "torch-").startswith("torch-")]
    assert [line["name"] for line in ours] == [program["name"] for program in programs]
    for line in ours:
        assert line["checked"] == "against TensorFlow on CPU" and line["same_picks"] >= 0.99
    log = tmp_path / "lines.jsonl"
    log.write_text(done.stdout)
    assert page([log]) == page([]), "a CPU is no accelerator"
