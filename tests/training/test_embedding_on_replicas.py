"""Evaluation, reference cache and index embed on all replicas, with the results of one."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tiny
from small_export import DECODE_SIZE, IMAGE_SIZE, small_export, small_model, small_tokenizer
from small_run import small_data

from jest_tf.config import base_config
from jest_tf.data.sources import open_source
from jest_tf.evaluation.evaluators import run_evaluation
from jest_tf.serving.encoders import ExportEncoder, ModelEncoder
from jest_tf.training.cache_fill import cache_of_run
from jest_tf.training.run.restore import LoadedRun

N = 7  # does not divide by the replicas


@pytest.mark.parametrize("n_replicas", [1, 2, 4])
def test_every_replica_takes_an_equal_share(n_replicas):
    shapes = []

    def encode(rows):
        shapes.append(tuple(rows.shape))
        return 2.0 * tf.cast(rows, tf.float32)

    rows = np.arange(2 * N).reshape(N, 2)
    found = tiny.runtime(n_replicas).by_rows(encode)(rows)
    np.testing.assert_array_equal(found, 2.0 * rows)
    assert shapes == [(math.ceil(N / n_replicas), 2)] * n_replicas


def test_an_evaluation_and_a_cache_are_those_of_one_device(tmp_path):
    manifest, tokenizer = open_source(small_data(tmp_path)), small_tokenizer(tmp_path)
    config = base_config()
    config.data.image_size = DECODE_SIZE
    spec = {"kind": "retrieval", "data": str(tmp_path / "data.json"), "batch_size": 5}
    metrics, stored = [], []
    for n_replicas in (1, 2):
        runtime = tiny.runtime(n_replicas)
        with runtime.strategy.scope():
            model = small_model(tokenizer)
        encoder = ModelEncoder(model, tokenizer, IMAGE_SIZE, DECODE_SIZE, {}, runtime.by_rows)
        metrics.append(run_evaluation("retrieval", spec, encoder)["metrics"])
        cache = cache_of_run(
            LoadedRun(config, model, tokenizer, 1, {}), manifest, str(tmp_path / f"{n_replicas}"),
            dtype="float16", batch_size=5, runtime=runtime,
        ).finish()  # fmt: skip
        records = list(tf.data.TFRecordDataset(cache.shard_paths).as_numpy_iterator())
        parsed = cache.parse(tf.constant(records), tf.zeros([len(records)], tf.int64))
        stored.append([parsed[name].numpy() for name in ("reference_zimg", "reference_ztxt")])
    assert metrics[0] == metrics[1]
    for one, two in zip(*stored, strict=True):
        np.testing.assert_allclose(two, one, atol=2e-3)  # float16


def test_an_export_embeds_on_two_replicas(tmp_path):
    path, runtime = small_export(tmp_path), tiny.runtime(2)
    with runtime.strategy.scope():
        spread = ExportEncoder(path, runtime.by_rows)
    alone = ExportEncoder(path)
    images = np.random.default_rng(0).integers(0, 256, (3, DECODE_SIZE, DECODE_SIZE, 3), np.uint8)
    files = [tf.io.encode_png(image).numpy() for image in images[:2]] + [b"no picture"]
    np.testing.assert_allclose(spread.encode_image(images), alone.encode_image(images), atol=1e-5)
    np.testing.assert_allclose(
        spread.encode_text(["a red dog"]), alone.encode_text(["a red dog"]), atol=1e-5
    )
    for found, expected in zip(
        spread.encode_image_bytes(files), alone.encode_image_bytes(files), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)
