"""What people are shown of a step: the record's own caption and key, not what the model saw."""

from types import SimpleNamespace

import numpy as np
import tensorflow as tf
from small_shards import example, png, write_shard

from jest_tf.data import pipeline
from jest_tf.data.manifest import Manifest, Source
from jest_tf.monitoring.samples import read_samples, write_samples
from jest_tf.selection import Embeddings
from jest_tf.training.step_log import shown_examples


def test_samples_name_the_record_and_quote_its_caption(tmp_path, tokenizer):
    records = [
        example(id=n, image=png(n), key=f"photos/{n}.jpg", captions=["", f"A Record, no. {n}!"])
        for n in range(16)
    ]
    shard = write_shard(tmp_path / "a.tfrecord", records)
    manifest = Manifest("mine", (Source("mine", id="id", key="key"),), (shard,))
    batches = pipeline.super_batches(
        manifest, tokenizer, super_batch=16, image_size=4, seed=0, n_lanes=1
    )
    batch = next(iter(batches))
    z = tf.math.l2_normalize(tf.random.stateless_normal([16, 4], [0, 1]), -1)
    models = Embeddings(z, z[::-1], tf.constant(10.0), tf.constant(-10.0))
    scored = SimpleNamespace(learner=models, reference=models, valid=batch["valid"])
    last = SimpleNamespace(
        scored=scored, selection=SimpleNamespace(positions=tf.constant([0, 5, 9, 2]))
    )
    score = np.arange(16, dtype=np.float32)
    write_samples(tmp_path, 1, shown_examples(last, batch, score, tokenizer, manifest, 4))
    shown = read_samples(tmp_path, 1)
    assert len(shown.id) == 12
    assert shown.key.tolist() == [f"photos/{n}.jpg" for n in shown.id]
    assert shown.caption.tolist() == [f"A Record, no. {n}!" for n in shown.id]

    (tmp_path / "a.tfrecord").unlink()  # the data went away: the run shows what the model read
    shown = shown_examples(last, batch, score, tokenizer, manifest, 4)
    assert set(shown.key) == {""} and all("record" in text for text in shown.caption)
