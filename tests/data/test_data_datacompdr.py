"""A reference cache from the embeddings inside DataCompDR's tars."""

import io
import json
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from small_run import small_data

from jest_tf.data.datacompdr import DataCompDR
from jest_tf.data.manifest import Manifest, Shard, Source
from jest_tf.data.records import hashed_id
from jest_tf.data.reference_cache import CacheWriter
from jest_tf.errors import UserError

N, D = 4, 3  # records, and the width of each teacher


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def arrays(**values):
    out = io.BytesIO()
    np.savez(out, **values)
    return out.getvalue()


@pytest.fixture
def embeddings():
    generator = np.random.default_rng(0)
    return [
        {
            "image_emb": generator.normal(size=(5, 2 * D)).astype(np.float32),
            "text_emb": generator.normal(size=(3, 2 * D)).astype(np.float32),
        }
        for _ in range(N)
    ]


@pytest.fixture
def tar_path(tmp_path, embeddings):
    """Members as the published tars have them."""
    path = tmp_path / "00000000.tar"
    with tarfile.open(path, "w") as tar:
        for i, values in enumerate(embeddings):
            key = f"{i:09d}"
            add(tar, f"{key}.url.txt", b"http://example.com/a.jpg")
            add(tar, f"{key}.syn.json", json.dumps({"syn_text": ["a", "b"]}).encode())
            add(tar, f"{key}.paug.json", json.dumps({"param_aug": "[[[1, 2]]]"}).encode())
            add(tar, f"{key}.npz", arrays(**values))
            add(tar, f"{key}.json", json.dumps({"uid": f"uid{i}", "sha256": "0"}).encode())
    return path


def manifest_of(tmp_path, keys, captions=1):
    path = str(tmp_path / "records.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for key in keys:
            features = {
                "key": tf.train.Feature(bytes_list=tf.train.BytesList(value=[key.encode()])),
                "captions": tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[b"a caption"] * captions)
                ),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    return Manifest("m", (Source("dr", id=None, key="key"),), (Shard(path, len(keys)),))


def filled(folder, manifest, found):
    writer = CacheWriter(
        str(folder), manifest, identity={"datacompdr": "test"}, dim=found.dim, scale=100.0, bias=0.0
    )
    writer.fill(found.rows)
    return writer.finish()


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("teacher", [0, 1])
@pytest.mark.parametrize("form", ["shard:key", "uid", "key"])
def test_the_cache_holds_one_teacher_of_each_record(teacher, form, tar_path, tmp_path, embeddings):
    names = {"shard:key": "00000000.tar:{:09d}", "uid": "uid{}", "key": "{:09d}"}
    order = [2, 0, 3]
    keys = [names[form].format(i) for i in order]
    manifest = manifest_of(tmp_path, keys, captions=2)
    cache = filled(tmp_path / "cache", manifest, DataCompDR([str(tar_path)], teacher))
    assert cache.dim == D
    records = tf.data.TFRecordDataset(cache.shard_paths).batch(3).get_single_element()
    for caption in (0, 1):
        rows = cache.parse(records, tf.fill([3], tf.constant(caption, tf.int64)))
        half = slice(teacher * D, (teacher + 1) * D)
        zimg = [unit(unit(embeddings[i]["image_emb"][:, half]).mean(axis=0)) for i in order]
        ztxt = [unit(embeddings[i]["text_emb"][caption, half]) for i in order]
        np.testing.assert_allclose(rows["reference_zimg"], zimg, atol=1e-3)
        np.testing.assert_allclose(rows["reference_ztxt"], ztxt, atol=1e-3)
        assert rows["id"].numpy().tolist() == [int(hashed_id("dr", tf.constant(k))) for k in keys]


def test_what_does_not_fit_is_told(tar_path, tmp_path):
    found = DataCompDR([str(tar_path)], 0)
    with pytest.raises(UserError, match="'other' of .* is in none of the 1 tars"):
        filled(tmp_path / "a", manifest_of(tmp_path, ["other"]), found)
    with pytest.raises(UserError, match="has 4 captions and DataCompDR 3 text embeddings"):
        filled(tmp_path / "b", manifest_of(tmp_path, ["uid1"], captions=4), found)
    with pytest.raises(UserError, match="no keys"):
        filled(tmp_path / "c", Manifest.load(small_data(tmp_path)), found)


@pytest.mark.parametrize(
    "content, told",
    [
        (arrays(image_emb=np.ones((2, 6))), "not as DataCompDR's"),
        (arrays(image_emb=np.ones((2, 5)), text_emb=np.ones((2, 5))), "widths 5 and 5"),
        (arrays(image_emb=np.array([{}]), text_emb=np.ones((2, 6))), "not as DataCompDR's"),
        (b"no npz", "not as DataCompDR's"),
        (None, "hold no KEY.npz"),
    ],
)
def test_members_of_another_layout_are_told(content, told, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "a.npz" if content else "a.txt", content or b"text")
    with pytest.raises(UserError, match=told):
        DataCompDR([str(tmp_path / "x.tar")], 0)
    (tmp_path / "y.tar").write_bytes(b"no tar at all" * 99)
    with pytest.raises(UserError, match="cannot be read as a plain tar"):
        DataCompDR([str(tmp_path / "y.tar")], 0)
