"""A run of the first release is evaluated, exported and continued by this version."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy

from jest_tf.evaluation.evaluators import run_evaluation
from jest_tf.export import export_run
from jest_tf.models import dual_encoder
from jest_tf.monitoring.metrics_log import read_metrics
from jest_tf.monitoring.picks_log import Picks
from jest_tf.serving.encoders import ExportEncoder, ModelEncoder
from jest_tf.training import loop
from jest_tf.training.run.restore import load_workdir
from jest_tf.training.run.workdir import stored_config

FIRST = pathlib.Path(__file__).parents[1] / "first_release"
STEPS, MORE = 6, 8


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy, in the folder from which the run began: it names its data by a relative path."""
    shutil.copytree(FIRST, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    tower = dual_encoder.TowerConfig(width=8, depth=1, heads=2, mlp_dim=16)
    nano = dataclasses.replace(
        dual_encoder.VARIANTS["nano"], patch_size=4, embed_dim=8, image=tower, text=tower
    )
    monkeypatch.setattr(dual_encoder, "VARIANTS", dual_encoder.VARIANTS | {"nano": nano})
    return tmp_path


def test_it_is_evaluated_exported_and_continued(folder):
    run = load_workdir("run")
    assert run.step == STEPS
    encoder = ModelEncoder(run.model, run.tokenizer, 8, 12, {})
    found = run_evaluation("retrieval", run.config.evals.retrieval.to_dict(), encoder)["metrics"]
    theirs = json.loads((folder / f"run/evaluations/retrieval-{STEPS:08d}.json").read_text())
    for name, value in theirs["metrics"].items():
        # For a picture of this tiny run captions tie within a rounding, and processors round
        # differently; for a caption the pictures do not. Other names are those of another program.
        if name in found and name.startswith("text_to_image/"):
            assert found[name] == pytest.approx(value, rel=0.1, abs=0.05), name

    export_run(run, "run", "export")
    exported, texts = ExportEncoder("export"), ["a red square of 5 pixels"]
    np.testing.assert_allclose(exported.encode_text(texts), encoder.encode_text(texts), atol=1e-5)

    picks = Picks(folder / "run/picks")
    before = [picks.ids(step).tolist() for step in range(1, STEPS + 1)]
    config = stored_config("run")
    config.total_steps = MORE
    assert loop.train(config, "run") == 0
    picks = Picks(folder / "run/picks")
    assert [picks.ids(step).tolist() for step in range(1, STEPS + 1)] == before
    assert len(picks.ids(MORE)) == 8
    logged = [line["step"] for line in read_metrics("run/metrics.jsonl") if "train/loss" in line]
    assert logged == [2, 4, 6, 8]
    saved = folder / f"run/checkpoints/step-{MORE:08d}/variables.safetensors"
    old = np.load(FIRST / f"run/checkpoints/step-{STEPS:08d}/variables.npz")
    new = safetensors.numpy.load_file(saved)
    assert set(new) == set(old.files)
    # Two steps of Adam at a learning rate of 1e-3, no more.
    for name in (name for name in new if name.startswith("learner/")):
        np.testing.assert_allclose(new[name], old[name], atol=3e-3)
