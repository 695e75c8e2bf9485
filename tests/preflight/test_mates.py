"""Near mates against counting every pair."""

import numpy as np
import pytest
import tensorflow as tf

from jest_tf.data.manifest import Manifest, Shard, Source
from jest_tf.data.reference_cache import CacheWriter
from jest_tf.preflight import data_checks


def every_pair(n: int, is_near) -> float:
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    return sum(bool(is_near(i, j)) for i, j in pairs) / len(pairs)


def test_equal_values():
    values = np.random.default_rng(0).integers(0, 4, 30)
    assert data_checks.equal_share(values) == pytest.approx(
        every_pair(30, lambda i, j: values[i] == values[j])
    )
    assert data_checks.equal_share(values[:1]) == 0


def test_matches_of_a_reference(monkeypatch):
    monkeypatch.setattr(data_checks, "BLOCK", 7)
    rng = np.random.default_rng(1)
    zimg, ztxt = (rng.normal(size=[20, 3]).astype(np.float32) for _ in range(2))
    expected = every_pair(20, lambda i, j: 2.0 * (zimg[i] @ ztxt[j]) - 1.5 > 0)
    assert data_checks.match_share(zimg, ztxt, 2.0, -1.5) == pytest.approx(expected)


def test_a_sample_of_a_set_and_its_cache(tmp_path, monkeypatch):
    """Two shards of ten records, sorted by caption: every second one is looked at."""
    monkeypatch.setattr(data_checks, "SAMPLED", 10)
    captions = [b"red"] * 10 + [b"blue"] * 6 + [b"green"] * 4
    shards = []
    for number in range(2):
        path = str(tmp_path / f"{number}.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for caption in captions[10 * number : 10 * number + 10]:
                feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[caption]))
                features = tf.train.Features(feature={"caption": feature})
                writer.write(tf.train.Example(features=features).SerializeToString())
        shards.append(Shard(path, 10))
    manifest = Manifest("m", (Source("s", image="image", captions="caption"),), tuple(shards))
    seen = captions[::2]
    expected = every_pair(10, lambda i, j: seen[i] == seen[j])
    assert data_checks.captions_q(manifest) == pytest.approx(expected)

    writer = CacheWriter(
        str(tmp_path / "cache"), manifest, identity={}, dim=3, scale=10.0, bias=-5.0
    )
    names = [b"red", b"blue", b"green"]
    for number in range(2):
        rows = captions[10 * number : 10 * number + 10]
        vectors = [np.eye(3)[names.index(caption)] for caption in rows]
        writer.write_shard(number, [(i, z, z[None]) for i, z in enumerate(vectors)])
    assert data_checks.reference_q(manifest, writer.finish()) == pytest.approx(expected)
