"""The main job end to end, shortened: what it leaves behind, and that JEST avoids broken rows."""

import json
import subprocess
import sys

import pytest

from jest_tf.monitoring import run_summary

STEPS, REFERENCE_STEPS = 30, 180


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pytestconfig):
    workdir = tmp_path_factory.mktemp("quick start")
    command = [
        sys.executable, "-m", "jest_tf.quickstart", f"--workdir={workdir / 'run'}",
        f"--data_dir={workdir / 'prepared'}", f"--steps={STEPS}",
        f"--reference_steps={REFERENCE_STEPS}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=pytestconfig.rootpath)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return workdir / "run", done.stdout


def test_results_have_a_row_per_policy_with_every_column(finished):
    folder, _ = finished
    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text())}
    assert list(rows) == ["reference", "joint", "uniform"]
    for name in ("joint", "uniform"):
        missing = [k for k, _ in run_summary.COLUMNS.values() if rows[name][k] is None]
        assert missing == [], name
        assert rows[name]["steps"] == STEPS
    assert rows["joint"]["examples_scored"] == 5 * rows["joint"]["examples_trained"]
    assert rows["uniform"]["examples_scored"] == 0
    assert rows["joint"]["flops"] > 2 * rows["uniform"]["flops"]


def test_jest_picks_fewer_broken_rows_than_the_pool_holds(finished):
    folder, _ = finished
    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text())}
    assert rows["joint"]["pool_broken"] == pytest.approx(0.4, abs=0.01)
    assert rows["joint"]["picked_broken"] < rows["joint"]["pool_broken"] - 0.03
    assert rows["uniform"]["picked_broken"] == pytest.approx(0.4, abs=0.04)


def test_everything_that_the_last_lines_name_is_there(finished):
    folder, output = finished
    assert "is ahead" in output or "Nobody is ahead" in output
    for path in (
        "results.json", "export/saved_model.pb", "queries/contact_sheet.png",
        "joint/tensorboard", "joint/checkpoints", "uniform/checkpoints",
    ):  # fmt: skip
        assert (folder / path).exists(), path
        assert path.split("/")[-1] in output or path.split("/")[0] in output
