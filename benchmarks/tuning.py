"""Pairs per second of tuning: the whole model, LoRA, and the text tower on cached embeddings.

    python -m benchmarks.tuning --variant=Ti --image_size=224 --n_tokens=32 --sub_batch=32 --steps=6

Random weights and random pictures: the time does not depend on what is learned. Decoding, waiting
for input and the update are in it; the first step, which compiles, is not. `seconds_in_all` holds
everything, filling the cache included.
"""

import io
import json
import pathlib
import tempfile
import time

import numpy as np
import tensorflow as tf
from absl import app, flags
from PIL import Image

from benchmarks import figures
from jest_tf.config import base_config, settle
from jest_tf.configs import tune
from jest_tf.data.manifest import Manifest, Shard, Source
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.training import loop
from jest_tf.training.assemble import build_model
from jest_tf.training.inputs import model_record
from jest_tf.training.run.checkpoint import STATE, Checkpointer, step_name
from jest_tf.training.run.restore import learner_variables
from jest_tf.tuning import follow_init

FLAGS = flags.FLAGS
COLOURS = ["red", "green", "blue", "dark", "light", "square", "circle"]
WORDS = ["[PAD]", "[UNK]", "[EOS]", *COLOURS]


def define_flags() -> None:
    flags.DEFINE_string("variant", "Ti", "Size of the towers.")
    flags.DEFINE_integer("image_size", 224, "Pixels, in patches of 16.")
    flags.DEFINE_integer("n_tokens", 32, "Text length.")
    flags.DEFINE_integer("sub_batch", 32, "Pairs per step.")
    flags.DEFINE_integer("steps", 6, "Steps of each run; the first is not timed.")
    flags.DEFINE_string("policy", "uniform", "joint scores five times as many pairs as well.")


def measure(folder: pathlib.Path, options: dict) -> dict[str, dict[str, float]]:
    """Name of a way to tune -> {pairs_per_second, gflop_per_pair, seconds_in_all}."""
    data = write_pairs(folder, 8 * options["sub_batch"], options["image_size"])
    init = write_init(folder / "init", options)
    ways = {"full": "", "lora": ",lora=8", "cached": f",cache={folder / 'cache'}"}
    return {name: _run(folder / name, data, init, extra, options) for name, extra in ways.items()}


def _run(workdir: pathlib.Path, data: str, init: pathlib.Path, extra: str, options: dict) -> dict:
    text = f"policy={options['policy']},steps={options['steps']},sub_batch={options['sub_batch']}"
    config = tune.get_config(f"{text},eval=0{extra}")
    config.model.init, config.data.train = str(init), data
    config.data.n_lanes = 1
    config.selection.n_chunks = min(16, options["sub_batch"])
    config.log.every_steps = config.log.samples_every_steps = options["steps"]
    config.optimizer.warmup_steps = 0
    config.log.min_score_share = 0.0
    follow_init(config, str(workdir))
    settle(config)
    started = time.monotonic()
    loop.train(config, str(workdir))
    took = time.monotonic() - started
    state = workdir / "checkpoints" / step_name(options["steps"]) / STATE
    ledger = json.loads(state.read_text())["state"]["ledger"]
    seconds = sum(ledger["seconds"].values()) - ledger["seconds"]["compile"]
    pairs = options["sub_batch"] * (options["steps"] - 1)
    return {
        "pairs_per_second": pairs / seconds,
        "gflop_per_pair": sum(ledger["flops"].values()) / ledger["examples_trained"] / 1e9,
        "seconds_in_all": took,
    }


def write_pairs(folder: pathlib.Path, n: int, image_size: int) -> str:
    """Path of a manifest of n noisy pictures with captions."""
    rng, path = np.random.default_rng(0), str(folder / "pairs.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for _ in range(n):
            coarse = Image.fromarray(rng.integers(0, 256, [16, 16, 3], np.uint8))
            out = io.BytesIO()
            coarse.resize([image_size + 32] * 2).save(out, "JPEG", quality=90)
            caption = " ".join(rng.choice(COLOURS, 5)).encode()
            features = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for name, value in (("image", out.getvalue()), ("captions", caption))
            }
            record = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(record.SerializeToString())
    Manifest("pairs", (Source("pairs"),), (Shard(path, n),)).save(str(folder / "pairs.json"))
    return str(folder / "pairs.json")


def write_init(workdir: pathlib.Path, options: dict) -> pathlib.Path:
    """A run at step 0 with random weights."""
    config = base_config()
    config.model.variant, config.model.patch_size = options["variant"], 16
    config.data.image_size = config.model.image_size = options["image_size"]
    config.data.n_tokens = options["n_tokens"]
    workdir.mkdir()
    (workdir / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    tokenizer = Tokenizer(str(workdir / "vocab.txt"), config.data.n_tokens)
    model = build_model(config, tokenizer.vocab_size)
    model_record(model, tokenizer, config.data.image_size).save(workdir)
    state = {"step": 0, "ledger": {}}
    Checkpointer(str(workdir / "checkpoints")).save(0, learner_variables(model), state)
    return workdir


def main(_) -> None:
    names = ("variant", "image_size", "n_tokens", "sub_batch", "steps", "policy")
    options = {name: FLAGS[name].value for name in names}
    with tempfile.TemporaryDirectory() as folder:
        found = measure(pathlib.Path(folder), options)
    full = found["full"]["pairs_per_second"]
    for name, values in found.items():
        goal = {"cached": ">= 5", "lora": "none", "full": "1"}[name]
        figures.emit(
            f"tuning_over_full_{name}", values["pairs_per_second"] / full, goal, "x",
            numerator=values["pairs_per_second"], denominator=full, repeats=options["steps"] - 1,
            gflop_per_pair=values["gflop_per_pair"], seconds_in_all=values["seconds_in_all"],
            context=options, **figures.made_here(),
        )  # fmt: skip


if __name__ == "__main__":
    define_flags()
    app.run(main)
