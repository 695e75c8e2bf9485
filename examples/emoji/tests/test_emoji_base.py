"""The shipped weights: small, sound, imported by our own command, as good as their README says."""

import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from examples.emoji import builder as emoji
from examples.emoji.train_base import CONFIG, score
from jest_tf.config_flag import SHIPPED
from jest_tf.evaluation.evaluators import run_evaluation
from jest_tf.serving.encoders import ModelEncoder
from jest_tf.training.run.imported import import_run
from jest_tf.training.run.restore import load_workdir

BASE = emoji.SOURCE_DIR / "base"
ROOT = SHIPPED.parents[1]


def test_is_small_half_precision_and_finite():
    assert sum(file.stat().st_size for file in BASE.iterdir()) <= 6e6
    tensors = load_file(BASE / "model.safetensors")
    assert {value.dtype for value in tensors.values()} == {np.dtype("float16")}
    assert all(np.isfinite(value).all() for value in tensors.values())


def test_scores_what_its_readme_says(data_dir, tmp_path):
    """On the validation part: 328 pictures, so one picture is 0.3 points of a recall."""
    run_dir = str(tmp_path / "base")
    import_run(str(BASE), run_dir, report=lambda line: None)
    run = load_workdir(run_dir)
    size = run.config.model.image_size
    encoder = ModelEncoder(run.model, run.tokenizer, size, size, {"model": "base"})
    spec = {"kind": "retrieval", "data": "tfds:emoji_captions/eval_retrieval:validation"}
    result = run_evaluation("retrieval", spec, encoder, data_dir, {})
    readme = (BASE / "README.md").read_text("utf-8")
    (told,) = re.findall(r"\| validation \(328 pictures\) \| ([\d.]+)%", readme)
    assert 100 * score(result) == pytest.approx(float(told), abs=0.4)


def test_its_readme_names_command_and_config():
    readme = (BASE / "README.md").read_text("utf-8")
    assert "python -m examples.emoji.train_base" in readme and (ROOT / CONFIG).exists()
    assert "Licence" in readme
