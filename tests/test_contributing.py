"""CONTRIBUTING.md's recipes, followed to the letter in a copy of the package."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEP = re.compile(
    r"^`(?P<file>jest_tf/[\w/]+\.py)`(?:, below `(?P<below>[^`]+)`)?:\n\n"
    r"```python\n(?P<code>.*?)```",
    re.MULTILINE | re.DOTALL,
)
USE = """
import numpy as np
import tensorflow as tf
from jest_tf.data.sources import open_source
from jest_tf.evaluation.evaluators import run_evaluation
from jest_tf.model_record import PixelRule
from jest_tf.selection import Embeddings, SelectionSpec, select

rng = np.random.default_rng(0)
images = rng.integers(0, 256, [5, 8, 8, 3], np.uint8)
np.savez("mine.npz", images=images, captions=[f"picture {i}" for i in range(5)])
manifest = open_source("npz:mine.npz")
assert manifest.n_records == 5
print("a source:", manifest.name)

class Encoder:
    decode_size, pixels, description = 8, PixelRule(), {"model": "m", "checkpoint": "c"}

    def encode_image(self, images):
        return np.ones([len(images), 4], np.float32) / 2

    def encode_text(self, texts):
        return np.ones([len(texts), 4], np.float32) / 2

result = run_evaluation("mine", {"kind": "alignment", "data": "npz:mine.npz"}, Encoder())
assert result["metrics"] == {"cosine": 1.0}, result
print("an evaluation:", result["metrics"])

spec = SelectionSpec(super_batch=6, sub_batch=2, policy="first_rows", n_chunks=1)
z = tf.linalg.normalize(tf.constant(rng.normal(size=[6, 4]), tf.float32), axis=1)[0]
model = Embeddings(z, z, tf.constant(1.0), tf.constant(0.0))
valid = tf.constant([False, True, False, True, True, True])
chosen = select(spec, model, model, valid, tf.constant([0, 0]))
assert chosen.positions.numpy().tolist() == [1, 3], chosen
print("a policy:", chosen.positions.numpy())

from jest_tf.config import base_config, evaluation
from jest_tf.config_checks import problems
config = base_config()
config.data.train = "npz:mine.npz"
config.selection.policy, config.reference.workdir = "first_rows", "runs/reference"
config.evals.mine = evaluation("alignment", "npz:mine.npz")
assert not [p for p in problems(config) if "first_rows" in p], problems(config)

from safetensors.numpy import save_file
from jest_tf.models.dual_encoder import DualEncoderConfig
from jest_tf.models.weights import folder, rules
sizes = DualEncoderConfig.from_variant("nano")
weights = {n: rng.normal(size=s).astype("f") for n, s in rules.our_shapes(sizes).items()}
save_file(weights, "plain.safetensors")
source = folder.open_source("plain.safetensors")
assert source.format.measure(source.tensors).config((2, 2), "plain") == sizes
taken = dict(rules.to_ours(source.format.rules(sizes), source.tensors, sizes, "plain"))
assert all((taken[name] == value).all() for name, value in weights.items())
print("a weight format:", source.format.DESCRIPTION)
"""


@pytest.mark.process
def test_the_recipes_work_as_they_are_written(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shutil.copytree(ROOT / "jest_tf", tmp_path / "jest_tf")
    steps = list(STEP.finditer(text))
    assert len([step for step in steps if not step["below"]]) == 4
    for step in steps:
        follow(tmp_path / step["file"], step["below"], step["code"])
    # `POLICIES` is named in prose: the policy's name goes into it.
    for file in re.search(r"`POLICIES`, in (.*?)\.\s", text)[1].split(" and "):
        path = tmp_path / "jest_tf" / file.strip("`")
        follow_prose(path)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for what in ("a source:", "an evaluation:", "a policy:", "a weight format:"):
        assert what in done.stdout


def follow(path: pathlib.Path, below: str | None, code: str) -> None:
    """One step: a new file, or lines below a line that is there exactly once."""
    if below is None:
        assert not path.exists(), path
        path.write_text(code, encoding="utf-8")
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith(below)]
    lines[at + 1 : at + 1] = code.rstrip("\n").splitlines()
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def follow_prose(path: pathlib.Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(re.findall(r"^POLICIES = \(", text, re.MULTILINE)) == 1, path
    path.write_text(text.replace("POLICIES = (", 'POLICIES = ("first_rows", ', 1), encoding="utf-8")
