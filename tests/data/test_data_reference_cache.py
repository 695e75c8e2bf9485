"""Cached reference embeddings arrive with their own record and caption, or are refused."""

import itertools
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from small_shards import example, png, write_shard

from jest_tf import progress
from jest_tf.data import order, pipeline, reference_fill
from jest_tf.data.manifest import Manifest, Source
from jest_tf.data.reference_cache import CacheWriter, ReferenceCache
from jest_tf.errors import UserError

IDENTITY = {"checkpoint": "abc", "image_size": 4, "tokenizer": "t-8"}
D = 6


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(order, "WINDOW_RECORDS", 7)
    monkeypatch.setattr(order, "GROUP_SEGMENTS", 2)


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    """45 records in 3 shards, with 1 to 3 captions each; record 20 has a broken image."""
    shards = []
    for index in range(3):
        records = [
            example(
                id=n,
                image=png(n) if n != 20 else b"<html>",
                captions=[f"record {10 * n + c}" for c in range(1 + n % 3)],
            )
            for n in range(index * 15, index * 15 + 15)
        ]
        shards.append(write_shard(tmp_path / f"{index}.tfrecord", records))
    return Manifest("m", (Source("m", id="id"),), tuple(shards))


def encode_image(images):
    """An embedding that tells which picture it is of: its number stands in two pixels' values."""
    number = tf.cast(images[:, 0, 0, 0], tf.float32)
    return tf.stack([tf.cos(number / 50), tf.sin(number / 50)] + [tf.zeros_like(number)] * 4, -1)


def encode_text(tokens):
    weights = tf.constant([0.0, 1, 10, 100, 0, 0, 0, 0])
    total = tf.reduce_sum(tf.cast(tokens, tf.float32) * weights, -1)
    return tf.stack([tf.cos(total / 500), tf.sin(total / 500)] + [tf.zeros_like(total)] * 4, -1)


def import_files(writer, *files):
    embeddings = reference_fill.StoredEmbeddings(files, writer.cache.dim)
    writer.fill(embeddings.rows)


def writer_for(folder, manifest, **kwargs) -> CacheWriter:
    kwargs = {"identity": IDENTITY, "dim": D, "scale": 9.0, "bias": -8.0} | kwargs
    return CacheWriter(str(folder), manifest, **kwargs)


@pytest.mark.parametrize("dtype, tolerance", [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_training_gets_what_the_reference_would_say(
    manifest, tokenizer, tmp_path, dtype, tolerance
):
    writer = writer_for(tmp_path / "cache", manifest, dtype=dtype)
    reference_fill.embed(writer, tokenizer, encode_image, encode_text, image_size=4, batch_size=16)
    writer.finish()
    cache = ReferenceCache.load(str(tmp_path / "cache"))
    assert (cache.scale, cache.bias, cache.dim) == (9.0, -8.0, D)
    cache.check_identity(IDENTITY)
    dataset = pipeline.super_batches(
        manifest, tokenizer, super_batch=12, image_size=4, seed=1, n_lanes=2, start_step=1,
        reference_cache=cache,
    )  # fmt: skip
    for batch in itertools.islice(dataset.as_numpy_iterator(), 6):
        valid = batch["valid"]
        assert (valid == (batch["id"] != 20)).all()
        zimg, ztxt = encode_image(batch["image"]).numpy(), encode_text(batch["tokens"]).numpy()
        np.testing.assert_allclose(batch["reference_zimg"][valid], zimg[valid], atol=tolerance)
        np.testing.assert_allclose(batch["reference_ztxt"][valid], ztxt[valid], atol=tolerance)


def test_a_prefilter_decodes_the_best_of_each_group_of_a_lane(manifest, tokenizer, tmp_path):
    first = [example(id=n, image=png(n), captions=["red", "dog"][: 1 + n % 2]) for n in range(15)]
    first[3] = b"\xff"  # no record at all
    shards = write_shard(tmp_path / "0.tfrecord", first), *manifest.shards[1:]
    manifest = Manifest("m", manifest.sources, shards)
    writer = writer_for(tmp_path / "cache", manifest)
    reference_fill.embed(writer, tokenizer, encode_image, encode_text, image_size=4, batch_size=16)
    cache = writer.finish()

    def batches(super_batch, start=0, **layout):
        found = pipeline.super_batches(
            manifest, tokenizer, super_batch=super_batch, image_size=4, seed=1, n_lanes=2,
            start_step=start, reference_cache=cache, **layout,
        )  # fmt: skip
        return itertools.islice(found.as_numpy_iterator(), 7 - start)

    filtered = list(batches(12, prefilter=0.5))
    for found, every in zip(filtered, batches(24), strict=True):
        cosine = np.sum(every["reference_zimg"] * every["reference_ztxt"], axis=1)
        cosine[every["id"] < 0] = -1
        kept, passed = [], []
        for lane in np.split(np.arange(24), 2):
            order = lane[np.argsort(-cosine[lane], kind="stable")]
            kept += sorted(order[:6])
            passed += list(order[6:])
        assert found["record"].tolist() == every["record"][kept].tolist()
        assert sorted(found["passed_over"]) == sorted(every["record"][passed])
    for k, found in enumerate(batches(12, 3, prefilter=0.5), start=3):
        assert (found["record"] == filtered[k]["record"]).all()
        assert (found["image"] == filtered[k]["image"]).all()
    with pytest.raises(UserError, match="is not a whole number"):
        next(batches(12, prefilter=0.7))


def test_it_resumes_and_parts_add_up(manifest, tokenizer, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)

    def run(**kwargs):
        writer = writer_for(tmp_path / "cache", manifest)
        embedded = []

        def counted(images):
            embedded.append(len(images))
            return encode_image(images)

        reference_fill.embed(
            writer, tokenizer, counted, encode_text, image_size=4, batch_size=8, **kwargs
        )
        return writer, embedded

    writer, batches = run(shards=[1])
    assert len(batches) == 2  # of 8, for one shard of 15 records
    assert "15/15 records 100%" in capfd.readouterr().err
    with pytest.raises(UserError, match="2 of 3 shards are missing"):
        writer.finish()
    with pytest.raises(UserError, match="cache_reference"):
        ReferenceCache.load(str(tmp_path / "cache"))
    writer, batches = run()
    assert len(batches) == 4
    writer.finish()
    assert run()[1] == []


@pytest.mark.parametrize("n_left", [None, 8])
def test_a_shard_that_was_lost_or_cut_between_records_is_named(
    manifest, tokenizer, tmp_path, n_left
):
    shard = manifest.shards[1].path
    kept = list(tf.data.TFRecordDataset(shard).take(n_left or 0).as_numpy_iterator())
    pathlib.Path(shard).unlink()
    if kept:
        write_shard(pathlib.Path(shard), kept)
    writer = writer_for(tmp_path / "cache", manifest)
    with pytest.raises(UserError, match="1.tfrecord"):
        reference_fill.embed(
            writer, tokenizer, encode_image, encode_text, image_size=4, batch_size=8, shards=[1]
        )


def test_another_reference_or_other_data_is_refused(manifest, make_manifest, tokenizer, tmp_path):
    writer = writer_for(tmp_path / "cache", manifest)
    with pytest.raises(UserError, match="image_size: cache has 4, the run expects 8") as error:
        writer.cache.check_identity(IDENTITY | {"image_size": 8})
    assert "checkpoint" not in str(error.value)
    with pytest.raises(UserError, match="checkpoint"):
        writer_for(tmp_path / "cache", manifest, identity=IDENTITY | {"checkpoint": "other"})
    other = make_manifest([15, 15, 15])
    with pytest.raises(UserError, match="other data"):
        layout = pipeline.InputLayout(super_batch=4, seed=0, n_lanes=1)
        pipeline.record_chunks(other, layout, reference_cache=writer.cache)


def test_a_reference_of_another_record_is_never_used(manifest, tokenizer, tmp_path):
    writer = writer_for(tmp_path / "cache", manifest)
    row = np.eye(D, dtype=np.float32)[:3]
    for shard in range(3):
        ids = list(range(shard * 15, shard * 15 + 15))
        ids[4], ids[5] = ids[5], ids[4]
        writer.write_shard(shard, ((n, row[0], row) for n in ids))
    cache = writer.finish()
    dataset = pipeline.super_batches(
        manifest, tokenizer, super_batch=45, image_size=4, seed=0, n_lanes=1, reference_cache=cache
    )
    batch = next(dataset.as_numpy_iterator())
    assert set(batch["id"][~batch["valid"]]) == {4, 5, 19, 20, 34, 35}


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_embeddings_of_any_model(manifest, tokenizer, tmp_path, kind):
    rng = np.random.default_rng(0)
    ids = rng.permutation(45)
    zimg = rng.normal(size=(45, D)).astype(np.float32)
    ztxt = [rng.normal(size=(1 + n % 3, D)).astype(np.float32) for n in ids]
    path = str(tmp_path / f"embeddings.{kind}")
    if kind == "npz":
        ragged = np.empty(45, object)
        ragged[:] = ztxt
        with pytest.raises(UserError, match="use Parquet"):
            np.savez(path, id=ids, zimg=zimg, ztxt=ragged)
            import_files(writer_for(tmp_path / "a", manifest), path)
        single = Manifest("one", manifest.sources, manifest.shards[:1])
        np.savez(path, id=ids, zimg=zimg, ztxt=zimg)
        with pytest.raises(UserError, match="record 1 has 2 captions but 1"):
            import_files(writer_for(tmp_path / "b", single), path)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"id": ids, "zimg": zimg.tolist(), "ztxt": [z.tolist() for z in ztxt]}
    pq.write_table(pa.table(columns), path)
    writer = writer_for(tmp_path / "c", manifest)
    import_files(writer, path)
    dataset = pipeline.super_batches(
        manifest, tokenizer, super_batch=45, image_size=4, seed=0, n_lanes=1,
        reference_cache=writer.finish(),
    )  # fmt: skip
    batch = next(dataset.as_numpy_iterator())
    at = {int(n): row for row, n in enumerate(ids)}
    for n, found in zip(batch["id"], batch["reference_zimg"], strict=True):
        if n != 20:
            expected = zimg[at[int(n)]] / np.linalg.norm(zimg[at[int(n)]])
            np.testing.assert_allclose(found, expected, atol=1e-3)
    assert (batch["valid"] == (batch["id"] != 20)).all()
    lacking = {name: values[:30] for name, values in columns.items()}
    pq.write_table(pa.table(lacking), path)
    with pytest.raises(UserError, match="has no embedding"):
        import_files(writer_for(tmp_path / "d", manifest), path)
    with pytest.raises(UserError, match=r"width \[6\]; expected 8"):
        import_files(writer_for(tmp_path / "e", manifest, dim=8), path)
