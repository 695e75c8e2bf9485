"""One rule for pictures, in prepare, training, evaluation, an export and the index."""

import json

import numpy as np
import pytest
import tensorflow as tf
from commands import run
from picture_kinds import distance, readable_by_prepare, readable_in_place, unreadable
from PIL import Image
from small_export import DECODE_SIZE, small_export, small_tokenizer

from jest_tf import prepare
from jest_tf.data import doctor, pipeline
from jest_tf.data.cleaning import read_picture
from jest_tf.data.evaluation_data import EvaluationData
from jest_tf.data.manifest import Manifest, Shard, Source
from jest_tf.data.sources import open_source
from jest_tf.serving.encoders import ExportEncoder
from jest_tf.serving.image_index import ImageIndex
from jest_tf.serving.indexing import add_images

SIZE = 32
CLOSE = 2.5  # of 255, in the mean: what lossy formats and 8 bits cost


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> ExportEncoder:
    return ExportEncoder(small_export(tmp_path_factory.mktemp("export")))


def in_place(folder, pictures: dict[str, bytes]) -> Manifest:
    """A TFRecord as somebody else wrote it: the files' own bytes."""
    path = str(folder / "shard.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for name, content in pictures.items():
            values = {"image": content, "captions": name.encode()}
            features = {
                key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                for key, value in values.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    return Manifest("given", (Source("given"),), (Shard(path, len(pictures)),))


def trained_pixels(manifest: Manifest, folder) -> list[np.ndarray | None]:
    """Each picture as the pipeline of training delivers it; None where it cannot be used."""
    batches = pipeline.super_batches(
        manifest, small_tokenizer(folder), super_batch=manifest.n_records, image_size=SIZE,
        seed=0, n_lanes=1, shuffle=False,
    )  # fmt: skip
    batch = next(batches.as_numpy_iterator())
    return [image if ok else None for image, ok in zip(batch["image"], batch["valid"], strict=True)]


def far_off(found: dict[str, np.ndarray | None], seen: dict[str, Image.Image]) -> dict[str, float]:
    away = {name: 255.0 if p is None else distance(p, seen[name]) for name, p in found.items()}
    return {name: value for name, value in away.items() if value > CLOSE}


def test_training_and_evaluation_read_a_set_in_place_by_the_rule(tmp_path):
    kinds = readable_in_place()
    seen = {name: image for name, (_, image) in kinds.items()}
    bad = unreadable()
    manifest = in_place(tmp_path, {name: file for name, (file, _) in kinds.items()} | bad)
    trained = dict(zip([*kinds, *bad], trained_pixels(manifest, tmp_path), strict=True))
    assert [name for name in bad if trained.pop(name) is not None] == []
    assert far_off(trained, seen) == {}
    data = EvaluationData(manifest, SIZE)
    (batch,) = data.batches(manifest.n_records)
    evaluated = {texts[0]: p for texts, p in zip(batch.captions, batch.images, strict=True)}
    assert list(evaluated) == list(kinds) and data.n_skipped == len(bad)
    assert far_off(evaluated, seen) == {}


@pytest.mark.parametrize("max_side", [None, 48])
def test_prepare_keeps_what_training_can_decode_and_nothing_else(tmp_path, max_side):
    kinds, bad = readable_by_prepare(), unreadable()
    seen = {name: image for name, (_, image) in kinds.items()}
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, content in ({n: file for n, (file, _) in kinds.items()} | bad).items():
        (folder / name).write_bytes(content)
    lines = [json.dumps({"file_name": name, "text": name}) for name in [*kinds, *bad]]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    command = ["folder", str(folder), f"--out={out}"]
    assert run(prepare, command + ([f"--max_side={max_side}"] if max_side else [])) == 0
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert {row["record"] for row in rejected} == set(bad) and all(r["reason"] for r in rejected)
    manifest = open_source(str(out))
    (batch,) = EvaluationData(manifest, SIZE).batches(manifest.n_records)
    names = [texts[0] for texts in batch.captions]
    assert far_off(dict(zip(names, batch.images, strict=True)), seen) == {}
    assert far_off(dict(zip(names, trained_pixels(manifest, tmp_path), strict=True)), seen) == {}
    assert doctor.examine(manifest).bad == 0


def test_an_export_and_the_index_see_what_training_sees(tmp_path, export):
    kinds, bad = readable_by_prepare(), unreadable()
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, content in ({n: file for n, (file, _) in kinds.items()} | bad).items():
        (folder / name).write_bytes(content)

    def embedding(image: Image.Image) -> np.ndarray:
        side = (DECODE_SIZE, DECODE_SIZE)
        pixels = np.asarray(image.resize(side, Image.Resampling.BILINEAR))
        return export.encode_image(pixels[None])[0]

    expected = {name: embedding(image) for name, (_, image) in kinds.items()}
    others = [embedding(image.transpose(3)) for _, image in kinds.values()]
    # A picture turned over is much further away than one that is read right.
    near = 0.3 * min(np.linalg.norm(e - o) for e, o in zip(expected.values(), others, strict=True))
    given = readable_in_place()
    zimg, ok = export.encode_image_bytes([*(file for file, _ in given.values()), *bad.values()])
    assert ok.tolist() == [True] * len(given) + [False] * len(bad)
    away = {n: np.linalg.norm(z - expected[n]) for n, z in zip(given, zimg, strict=False)}
    assert {name: d for name, d in away.items() if d > near} == {}

    report = add_images(tmp_path / "index", str(folder), export)
    assert report.added == len(kinds) and len(report.not_indexed) == len(bad)
    index = ImageIndex.open(tmp_path / "index")
    away = {
        item.label: np.linalg.norm(z - expected[item.label])
        for item, z in zip(index.items, index.embeddings(), strict=True)
    }
    assert {name: d for name, d in away.items() if d > near} == {}


@pytest.mark.parametrize("name", readable_by_prepare())
def test_pillow_reads_by_the_same_rule(name):
    file, seen = readable_by_prepare()[name]
    assert distance(np.asarray(read_picture(file).resize((SIZE, SIZE))), seen) < CLOSE
