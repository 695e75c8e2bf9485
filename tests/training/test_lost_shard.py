"""Shards that disappear while a run trains: waited for, then named, and the run continues."""

import functools

import pytest
import tensorflow as tf
from small_run import small_run

from jest_tf.config import read_config
from jest_tf.data.manifest import Manifest, Shard
from jest_tf.data.retry import resilient_steps
from jest_tf.errors import UserError
from jest_tf.training import loop


@pytest.mark.parametrize("steps_per_loop", [1, 2])  # read by Python, or inside the program
def test_a_lost_shard_ends_the_run_with_its_name_and_its_steps(
    steps_per_loop, tmp_path, monkeypatch
):
    import ml_collections

    config = ml_collections.ConfigDict(read_config(str(small_run(tmp_path, steps=()))))
    manifest = Manifest.load(str(tmp_path / "data.json"))
    records = list(tf.data.TFRecordDataset(manifest.shards[0].path).as_numpy_iterator())
    shards = []
    for index in range(12):  # three groups of four: the last is opened when the first is used up
        path = str(tmp_path / f"part-{index:02d}.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for record in records:
                writer.write(record)
        shards.append(Shard(path, len(records)))
    Manifest("parts", manifest.sources, tuple(shards)).save(str(tmp_path / "parts.json"))
    config.data.train = str(tmp_path / "parts.json")
    config.data.vocab = str(tmp_path / "run" / "vocab.txt")
    config.data.n_lanes, config.total_steps, config.evals = 1, 40, {}
    config.model.variant = "nano"
    config.selection.super_batch = config.selection.sub_batch = 4
    config.selection.n_chunks = 4
    config.optimizer.warmup_steps = 1
    config.strategy.jit_compile = False
    config.checkpoint.every_steps = 1

    waits = []
    patient = functools.partial(resilient_steps, sleep=waits.append)
    monkeypatch.setattr(loop, "resilient_steps", patient)
    rereading = functools.partial(loop.run_reading_again, sleep=waits.append)
    monkeypatch.setattr(loop, "run_reading_again", rereading)
    config.strategy.steps_per_loop = steps_per_loop

    def lose_all_shards(step, result):
        if step >= 2 and tf.io.gfile.exists(shards[0].path):
            for shard in shards:
                tf.io.gfile.rename(shard.path, shard.path + ".away")

    workdir = tmp_path / "training"
    with pytest.raises(UserError, match=r"part-\d\d.tfrecord: NotFoundError"):
        loop.train(config, str(workdir), lose_all_shards)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0], "files may come back: they are waited for"
    kept = sorted(path.name for path in (workdir / "checkpoints").glob("step-*"))
    assert kept[-1] > "step-00000002"

    for shard in shards:
        tf.io.gfile.rename(shard.path + ".away", shard.path)
    assert loop.train(config, str(workdir)) == 0
    assert (workdir / "checkpoints" / "step-00000040").is_dir()
