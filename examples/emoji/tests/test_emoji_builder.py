"""The shipped set: counts, splits, licences, known damage, and no evaluation key in training."""

import collections
import io
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from examples.emoji import builder as emoji
from jest_tf.data import pipeline, sources
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError
from jest_tf.monitoring.labels import read_labels


def feature_of_all(manifest, name):
    values = []
    for shard in manifest.shards:
        for serialized in tf.data.TFRecordDataset(shard.path).as_numpy_iterator():
            feature = tf.train.Example.FromString(serialized).features.feature[name]
            values.append((feature.bytes_list.value or feature.int64_list.value)[:])
    return values


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[EOS]\nred\n")
    return Tokenizer(str(tmp_path / "vocab.txt"), n_tokens=8)


@pytest.fixture(scope="module")
def manifests(data_dir):
    names = {
        "pool": "pool:train",
        "curated": "curated:train",
        "retrieval": "eval_retrieval:test",
        "retrieval_validation": "eval_retrieval:validation",
        "zero_shot": "eval_zero_shot:test",
        "zero_shot_validation": "eval_zero_shot:validation",
    }
    return {k: sources.open_source(f"tfds:emoji_captions/{v}", data_dir) for k, v in names.items()}


def test_counts_and_shards(manifests):
    counts = {name: manifest.n_records for name, manifest in manifests.items()}
    assert counts["pool"] == 60_000 and counts["curated"] == 5_546
    assert counts["retrieval"] + counts["retrieval_validation"] == 1_690
    assert counts["zero_shot"] + counts["zero_shot_validation"] == 1_302
    assert all(len(manifest.shards) >= 8 for manifest in manifests.values())


def test_no_evaluation_key_enters_a_training_manifest(manifests):
    keys = {n: {k[0] for k in feature_of_all(m, "key")} for n, m in manifests.items()}
    training = keys["pool"] | keys["curated"]
    evaluation = set().union(*(v for k, v in keys.items() if k not in ("pool", "curated")))
    assert len(evaluation) == 1690
    assert not training & evaluation
    assert not any(key.startswith(b"twemoji/") for key in training)
    assert not keys["retrieval"] & keys["retrieval_validation"]
    assert not keys["zero_shot"] & (keys["retrieval_validation"] | keys["zero_shot_validation"])


def test_every_record_carries_its_licence(manifests):
    by_vendor = collections.defaultdict(set)
    for key, license_name in zip(
        *(feature_of_all(manifests["curated"], name) for name in ("key", "license")), strict=True
    ):
        by_vendor[key[0].split(b"/")[0]].add(license_name[0])
    assert by_vendor[b"noto"] == {b"Apache-2.0"} and by_vendor[b"fluent-color"] == {b"MIT"}
    assert all(len(licences) == 1 for licences in by_vendor.values())


def test_noise_is_for_measuring_only(manifests, tokenizer):
    noise = emoji.noise_by_id()
    assert collections.Counter(noise.values())["clean"] == 18_000 and len(noise) == 60_000
    dataset = pipeline.super_batches(
        manifests["pool"], tokenizer, super_batch=64, image_size=64, seed=0
    )
    expected = {"id", "image", "tokens", "valid", "source", "record", "caption_index"}
    assert set(dataset.element_spec) == expected
    batch = next(dataset.as_numpy_iterator())
    assert batch["valid"].all()
    # Another way to the same pixels: the row's key in the shipped files, read with PIL.
    rows = {r["id"]: r for r in emoji.read_rows(emoji.SOURCE_DIR, "pool.jsonl")}
    images = emoji.read_images(emoji.SOURCE_DIR)
    compared = 0
    for record_id, image in zip(batch["id"], batch["image"], strict=True):
        row = rows[int(record_id)]
        if not row["img_op"]:
            truth = Image.open(io.BytesIO(images[row["key"]][0])).convert("RGB")
            np.testing.assert_array_equal(image, np.asarray(truth))
            compared += 1
    assert compared > 50


def test_the_damage_of_bad_images_is_what_the_readme_says():
    clean = np.random.default_rng(5).integers(0, 256, (64, 64, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(clean).save(out, "PNG")

    def spoiled(op, row_id=11):
        png = emoji.spoil_image(out.getvalue(), op, row_id)
        return np.asarray(Image.open(io.BytesIO(png)))

    noise = np.random.default_rng(11).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(spoiled("noise"), noise)
    assert np.unique(spoiled("blank")).size == 1
    blur = spoiled("blur")
    assert (
        blur[0, 0, 1] == round(float(clean[:16, :16, 1].mean()))
        and (blur[:16, :16] == blur[0, 0]).all()
    )
    crop = spoiled("crop4")
    assert crop.shape == (64, 64, 3) and (crop != spoiled("crop4", 12)).any()
    with pytest.raises(UserError, match="melt"):
        spoiled("melt")


def test_classes_and_prompts(manifests):
    classes = emoji.zero_shot_classes()
    source = manifests["zero_shot"].sources[0]
    assert len(classes) == 64 and source.label == "label"
    assert list(source.labels) == [c["prompt"] for c in classes]
    rows = {r["id"]: r["class"] for r in emoji.read_rows(emoji.SOURCE_DIR, "eval_zero_shot.jsonl")}
    ids, labels, captions = (
        [v[0] for v in feature_of_all(manifests["zero_shot"], name)]
        for name in ("id", "label", "caption")
    )
    assert all(rows[i] == label for i, label in zip(ids, labels, strict=True))
    assert captions[0].decode() == classes[labels[0]]["prompt"]


def broken_copy(tmp_path, damage):
    folder = tmp_path / "emoji"
    shutil.copytree(emoji.SOURCE_DIR, folder)
    damage(folder)
    builder = tfds.builder(
        "emoji_captions/curated", data_dir=str(tmp_path / "out"), source_dir=str(folder)
    )
    with pytest.raises(UserError) as error:
        builder.download_and_prepare()
    return str(error.value)


def test_bad_source_folders_are_named(tmp_path):
    shard = "images-00002-of-00004.tfrecord"

    def drop_folder(folder):
        shutil.rmtree(folder)

    def empty_shard(folder):
        (folder / shard).write_bytes(b"")

    def flip_bytes(folder):
        with open(folder / shard, "r+b") as file:
            file.seek(5000)
            file.write(b"garbage")

    def wrong_key(folder):
        rows = (folder / "curated.jsonl").read_text().splitlines()
        rows[3] = json.dumps(json.loads(rows[3]) | {"key": "noto/no-such-emoji"})
        (folder / "curated.jsonl").write_text("\n".join(rows))

    def not_json(folder):
        (folder / "curated.jsonl").write_text('{"id": 0}\n')

    expected = {
        drop_folder: "curated.jsonl",
        empty_shard: f"{shard} holds no record",
        flip_bytes: f"{shard} record",
        wrong_key: "noto/no-such-emoji",
        not_json: "line 1",
    }
    for number, (damage, words) in enumerate(expected.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        message = broken_copy(folder, damage)
        assert words in message and "estore" in message + "Restore" * (damage is drop_folder)


def test_the_pool_brings_its_noise_labels_and_licences(manifests):
    about = manifests["pool"].about
    labels = read_labels(about.labels)
    assert labels.noisy == emoji.NOISY and len(about.licences) == 2 and len(about.limits) == 2
    assert labels.noisy_share(labels.pool_shares()) == pytest.approx(0.40, abs=0.001)
    assert manifests["curated"].about.labels == ()
