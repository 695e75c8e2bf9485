"""The main job end to end, shortened: what it leaves behind, and that JEST avoids broken rows."""

import json
import subprocess
import sys

import numpy as np
import pytest
from sample_workdir import some_samples

from examples.emoji import builder as emoji
from examples.emoji import quickstart
from jest_tf.monitoring import run_summary
from jest_tf.monitoring.samples import write_samples

STEPS, REFERENCE_STEPS = 30, 180


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pytestconfig):
    workdir = tmp_path_factory.mktemp("quick start")
    command = [
        sys.executable, "-m", "examples.emoji.quickstart", f"--workdir={workdir / 'run'}",
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


def test_a_generated_part_is_replaced_and_nothing_else(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- picks: by x -->\nold\nold\n<!-- /picks -->\nb\n", "utf-8")
    monkeypatch.setattr(quickstart, "README", readme)
    quickstart.update_part("picks", "new \\1")
    assert readme.read_text("utf-8") == ("a\n<!-- picks: by x -->\nnew \\1\n<!-- /picks -->\nb\n")


def test_the_pictures_broken_pairs_are_counted(tmp_path):
    by_kind = {"clean": [], "shuffled": [], "icon": []}
    for i, kind in emoji.noise_by_id().items():
        by_kind.get(kind, []).append(i)
    samples = some_samples(np.random.default_rng(0))  # eight of each group
    samples.id[samples.group == "chosen"] = by_kind["clean"][:7] + by_kind["shuffled"][:1]
    samples.id[samples.group == "rejected_noise"] = by_kind["shuffled"][:6] + by_kind["icon"][:2]
    write_samples(tmp_path / "samples", 20, samples)
    told = quickstart.told_picks(str(tmp_path))
    assert "1 of the 8 pairs in row 1" in told and "6 of the 8 in row 2" in told and "40%" in told
