"""What a pod and a long run wait for, simulated in one process: the first batch, and saving.

    taskset -c 0 python -m benchmarks.pod [--figures=start,save] [--update_docs]

Prints one JSON object per line. `pod_start_seconds`: the coordinator looks at every shard (a look
takes as long as on an object store) and builds the input pipelines of all hosts, one after the
other; then one of them gives its share of the first step, as the hosts do side by side.
`save_pause_share`: how long a training thread stands still for a save, over what the save takes.
"""

import pathlib
import tempfile
import time

import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks.figure_page import DISTRIBUTED
from benchmarks.figures import emit
from jest_tf import cli
from jest_tf.data import pipeline
from jest_tf.data.fields import example
from jest_tf.data.manifest import Manifest, Shard, Source, check_files
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.training.run.checkpoint import Checkpointer

FLAGS = flags.FlagValues()
_FIGURES = flags.DEFINE_list("figures", ["start", "save"], "What to print.", flag_values=FLAGS)
_SHARDS = flags.DEFINE_integer("shards", 41_000, "Of the data set.", flag_values=FLAGS)
_HOSTS = flags.DEFINE_integer("hosts", 64, "Input pipelines.", flag_values=FLAGS)
_STAT = flags.DEFINE_float("stat_seconds", 0.03, "Of one look at a file.", flag_values=FLAGS)
_MEGABYTES = flags.DEFINE_integer("megabytes", 512, "Of a checkpoint.", flag_values=FLAGS)
_UPDATE_DOCS = flags.DEFINE_bool(
    "update_docs", False, "Keep the figures, and show them in docs/scaling.md.",
    flag_values=FLAGS,
)  # fmt: skip

RECORDS = 16  # in a shard
PER_HOST = 16  # records of a host in a step


def start_row(folder: pathlib.Path) -> dict:
    """From the first look at a shard to the first share of a host."""
    manifest, hosts = pod_manifest(folder, _SHARDS.value), _HOSTS.value
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[EOS]\na\n")
    tokenizer = Tokenizer(str(folder / "vocab.txt"), 4)
    looks, stat = [0], tf.io.gfile.stat

    def slow(path):
        looks[0] += 1
        time.sleep(_STAT.value)
        return stat(path)

    tf.io.gfile.stat = slow
    started = time.perf_counter()
    check_files(manifest)
    checked = time.perf_counter() - started
    shared = pipeline.Shared()
    pipelines = [
        pipeline.super_batches(
            manifest, tokenizer, image_size=8, super_batch=hosts * PER_HOST, seed=0,
            n_lanes=hosts, input_pipeline_id=host, num_input_pipelines=hosts, shared=shared,
        )
        for host in range(hosts)
    ]  # fmt: skip
    built = time.perf_counter() - started
    assert len(next(iter(pipelines[-1]))["id"]) == PER_HOST
    seconds = time.perf_counter() - started
    tf.io.gfile.stat = stat
    return {
        "figure": "pod_start_seconds", "value": seconds, "goal": "< 60", "unit": "s",
        "shards": _SHARDS.value, "hosts": hosts, "stat_seconds": _STAT.value,
        "looks_per_shard": looks[0] / _SHARDS.value, "check_seconds": checked,
        "build_seconds": built - checked,
    }  # fmt: skip


def pod_manifest(folder: pathlib.Path, n_shards: int) -> Manifest:
    """So many shards, all links to one file."""
    file = folder / "shard.tfrecord"
    with tf.io.TFRecordWriter(str(file)) as writer:
        for i in range(RECORDS):
            picture = tf.io.encode_png(np.full((8, 8, 3), i, np.uint8)).numpy()
            writer.write(example({"image": [picture], "captions": [b"a"], "id": [i]}))
    shards, size = [], file.stat().st_size
    for i in range(n_shards):
        link = folder / f"{i:06d}.tfrecord"
        link.symlink_to(file)
        shards.append(Shard(str(link), RECORDS, bytes=size))
    return Manifest("pod", (Source("pod", id="id"),), tuple(shards))


def save_row(folder: pathlib.Path) -> dict:
    """One save of variables of so many megabytes, while the training thread waits for it or not."""
    n = _MEGABYTES.value * 2**20 // 4 // 64
    variables = {f"learner/{i:02d}": tf.Variable(tf.random.normal([n])) for i in range(64)}
    pauses, writes = [], []
    for step in range(1, 4):
        checkpointer = Checkpointer(str(folder / "checkpoints"), keep=1)
        started = time.perf_counter()
        checkpointer.save_later(step, variables, {"step": step})
        paused = time.perf_counter()
        for variable in variables.values():  # the next step, which needs other buffers
            variable.assign_add(tf.ones([n]))
        stepped = time.perf_counter()
        checkpointer.wait()
        pauses.append(paused - started)
        writes.append(time.perf_counter() - started - (stepped - paused))
    pause, write = sorted(pauses)[1], sorted(writes)[1]
    return {
        "figure": "save_pause_share", "value": pause / write, "goal": "<= 0.05", "unit": "share",
        "megabytes": _MEGABYTES.value, "pause_seconds": pause, "write_seconds": write,
    }  # fmt: skip


def main(_: list[str]) -> None:
    """Prints the figures asked for."""
    for name in _FIGURES.value:
        with tempfile.TemporaryDirectory() as folder:
            line = emit(**{"start": start_row, "save": save_row}[name](pathlib.Path(folder)))
        if _UPDATE_DOCS.value:
            DISTRIBUTED.keep([line])


if __name__ == "__main__":
    cli.run(main, FLAGS)
