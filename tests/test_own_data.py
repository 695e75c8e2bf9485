"""docs/your_data.md as it stands there, on a folder of photographs, with the shipped commands."""

import json
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
from commands import run
from PIL import Image

from jest_tf import cache_reference, prepare, train
from jest_tf.data.records import shard_records
from jest_tf.data.sources import open_source
from jest_tf.monitoring.metrics_log import read_metrics

DOCS = pathlib.Path(__file__).parents[1] / "docs" / "your_data.md"
COLOURS = ("red", "green", "blue", "grey")
# A model that steps in milliseconds; the commands are those of the page.
TINY = [
    "--config.total_steps=3",
    "--config.optimizer.warmup_steps=1",
    "--config.model.variant=nano",
    "--config.data.image_size=16",
    "--config.model.image_size=16",
    "--config.model.patch_size=8",
    "--config.data.n_tokens=6",
    "--config.data.vocab_size=60",
    "--config.data.n_lanes=2",
    "--config.selection.sub_batch=8",
    "--config.selection.super_batch=16",
    "--config.selection.n_chunks=2",
    "--config.strategy.jit_compile=False",
    "--config.log.every_steps=1",
]


def commands(module: str) -> list[list[str]]:
    """The arguments of every command of the page that runs this module."""
    text = DOCS.read_text().replace("\\\n", " ")
    found = re.findall(rf"^    python -m {re.escape(module)} (.*)$", text, re.MULTILINE)
    return [line.replace("'", "").split() for line in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Two folders of pictures with captions, prepared by the page's first command."""
    root = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    for name, n in (("photos", 40), ("trusted", 24)):
        (root / name).mkdir()
        lines = []
        for i in range(n):
            pixels = rng.integers(0, 60, (24, 30, 3))
            pixels[..., i % 3] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.jpg")
            lines.append(f"{i}.jpg,a {COLOURS[i % 3]} picture number {i % 7}")
        (root / name / "captions.csv").write_text("file,caption\n" + "\n".join(lines))
    (root / "configs").symlink_to(DOCS.parents[1] / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        (arguments,) = [a for a in commands("jest_tf.prepare") if a[0] == "folder"]
        assert run(prepare, arguments) == 0
        trusted = ["folder", "trusted", "--out=data/curated", *arguments[3:]]
        assert run(prepare, trusted) == 0
    return root


def last_line(workdir: pathlib.Path) -> dict:
    lines = list(read_metrics(workdir / "metrics.jsonl"))
    assert lines[-1]["step"] == 3
    return {k: v for line in lines for k, v in line.items()}


def test_three_commands(folder, monkeypatch):
    monkeypatch.chdir(folder)
    reference, jest, _ = commands("jest_tf.train")
    assert run(train, reference + TINY) == 0
    assert run(train, jest + TINY) == 0
    seen = last_line(folder / "runs" / "jest")
    assert seen["cost/examples_scored"] == 3 * 16 and seen["cost/examples_trained"] == 3 * 8
    assert np.isfinite(seen["train/loss"])
    config = json.loads((folder / "runs" / "jest" / "config.json").read_text())
    assert config["selection"]["policy"] == "joint"
    assert config["data"]["train"] == "data/mine#all_but=0.05"


def test_a_reference_of_another_model_and_width(folder, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.chdir(folder)
    manifest = open_source("data/mine")
    shards = range(len(manifest.shards))
    ids = [record.id for i in shards for record in shard_records(manifest, i)]
    (cache,), training = commands("jest_tf.cache_reference"), commands("jest_tf.train")[-1]
    (width,) = [int(a.split("=")[1]) for a in cache if a.startswith("--dim")]
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, len(ids), width)).astype(np.float32)
    (folder / "siglip").mkdir()
    columns = {"id": ids, "zimg": values[0].tolist(), "ztxt": values[1].tolist()}
    pq.write_table(pa.table(columns), folder / "siglip" / "a.parquet")
    assert run(cache_reference, cache) == 0
    training = [a.replace("runs/jest", "runs/own_reference") for a in training]
    assert run(train, training + TINY) == 0
    assert np.isfinite(last_line(folder / "runs" / "own_reference")["selection/joint_score"])
    assert tf.io.gfile.exists("cache/mine/cache.json")
