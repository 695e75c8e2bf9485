"""A finished run without training: config, vocabulary and checkpoints of random weights."""

import io
import json
import pathlib

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict
from PIL import Image

from jest_tf.config import base_config, evaluation
from jest_tf.data.manifest import Manifest, Shard, Source
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.training.assemble import build_model
from jest_tf.training.run.checkpoint import Checkpointer
from jest_tf.training.run.restore import learner_variables

ONE_BLOCK = {"image": {"depth": 1}, "text": {"depth": 1}}  # `model.sizes`: less to trace
WORDS = ["[PAD]", "[UNK]", "[EOS]", "red", "green", "blue", "dark", "square"]
TOTAL_STEPS = 30


def small_data(folder: pathlib.Path, n: int = 12) -> str:
    """Path of a manifest of n labelled one-coloured images with captions."""
    path = str(folder / "data.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for i in range(n):
            out = io.BytesIO()
            colour = np.zeros((10, 10, 3), np.uint8)
            colour[..., i % 3] = 255 - 10 * (i % 24)
            Image.fromarray(colour).save(out, "PNG")
            caption = f"{'dark ' * (i // 3 % 2)}{['red', 'green', 'blue'][i % 3]} square"
            writer.write(_example(out.getvalue(), caption, i % 3))
    source = Source("squares", label="label", labels=("red", "green", "blue"))
    Manifest("squares", (source,), (Shard(path, n),)).save(str(folder / "data.json"))
    return str(folder / "data.json")


def small_run(folder: pathlib.Path, steps: tuple[int, ...] = (10, TOTAL_STEPS)) -> pathlib.Path:
    """The workdir of a run with a checkpoint at each of `steps`, all of different weights."""
    data = small_data(folder)
    c = base_config()
    c.name = "squares"
    c.total_steps = TOTAL_STEPS
    c.data.train, c.data.data_dir = data, str(folder / "prepared")
    c.data.image_size, c.data.n_tokens = 12, 4
    c.model.image_size, c.model.patch_size, c.model.sizes = 8, 4, ConfigDict(ONE_BLOCK)
    c.evals.retrieval = evaluation("retrieval", data, batch_size=8)
    c.evals.zero_shot = evaluation("zero_shot", data, batch_size=8)
    workdir = folder / "run"
    workdir.mkdir()
    (workdir / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (workdir / "config.json").write_text(json.dumps(c.to_dict()))
    (workdir / "environment.json").write_text(json.dumps({"python": "3.11.0", "host": "secret"}))
    tokenizer = Tokenizer(str(workdir / "vocab.txt"), c.data.n_tokens)
    for step in steps:
        c.seed = step
        save(workdir, step, build_model(c, tokenizer.vocab_size))
    return workdir


def save(workdir: pathlib.Path, step: int, model) -> None:
    state = {"step": step, "ledger": {"examples": {"trained": 128 * step}}}
    Checkpointer(str(workdir / "checkpoints"), keep=9).save(step, learner_variables(model), state)


def _example(image: bytes, caption: str, label: int) -> bytes:
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "captions": tf.train.Feature(bytes_list=tf.train.BytesList(value=[caption.encode()])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
