"""A data set of three records, and a run that could be a reference."""

import json

import pytest
import tensorflow as tf
from small_records import example, write_records

from jest_tf.config import base_config

VOCABULARY = ["[PAD]", "[UNK]", "[EOS]", "red", "square"]


@pytest.fixture
def png() -> bytes:
    return tf.io.encode_png(tf.fill([64, 64, 3], tf.constant(200, tf.uint8))).numpy()


@pytest.fixture
def config(tmp_path, png):
    """A sound config on three records, with a vocabulary of five tokens."""
    c = base_config()
    records = [example(png, text) for text in ["Red square, red"] * 2 + ["red square, red"]]
    c.data.train = write_records(tmp_path, records)
    c.data.vocab = str(tmp_path / "vocab.txt")
    c.data.n_lanes = 1
    c.selection.super_batch = c.selection.sub_batch = 2
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return c


@pytest.fixture
def reference(tmp_path, config):
    """The workdir of a run with the same vocabulary, and one finished checkpoint."""
    workdir = tmp_path / "reference"
    checkpoint = workdir / "checkpoints" / "step-00000700"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    (workdir / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    config.reference.workdir = str(workdir)
    config.selection.policy = "joint"
    return workdir
