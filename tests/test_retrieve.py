"""Indexing and querying from the command line down to the files."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from commands import run
from PIL import Image
from small_export import small_export

from jest_tf import retrieve
from jest_tf.data.manifest import Manifest, Shard, Source
from jest_tf.errors import UserError
from jest_tf.serving import indexing
from jest_tf.serving.encoders import ExportEncoder
from jest_tf.serving.image_index import ImageIndex
from jest_tf.serving.indexing import add_images
from jest_tf.serving.querying import Searcher

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return small_export(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def encoder(export):
    return ExportEncoder(export)


def write_images(folder, n, seed=0):
    """n small random pictures in two folders; returns their paths in index order."""
    rng = np.random.default_rng(seed)
    paths = []
    for i in range(n):
        path = folder / ("a" if i % 2 else "b") / f"{seed}-{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
        paths.append(path)
    return sorted(paths)


def truth(encoder, paths):
    return encoder.encode_image_bytes([p.read_bytes() for p in paths])[0]


def test_a_query_finds_what_a_full_sort_finds(tmp_path, encoder, export):
    paths = write_images(tmp_path / "photos", 23)
    report = add_images(tmp_path / "index", str(tmp_path / "photos"), encoder, batch_size=5)
    assert (report.added, report.known, report.total) == (23, 0, 23)
    zimg = truth(encoder, paths)
    searcher = Searcher(tmp_path / "index")  # finds its model by itself
    found = searcher.find(["a red dog"], [str(paths[7])], k=4)
    queries = np.concatenate([encoder.encode_text(["a red dog"]), zimg[7:8]])
    for query, scores in zip(found["queries"], queries @ zimg.T, strict=True):
        order = np.argsort(-scores, kind="stable")[:4]
        assert [hit["id"] for hit in query["results"]] == [str(paths[i]) for i in order]
        np.testing.assert_allclose([h["score"] for h in query["results"]], scores[order], atol=1e-5)
    best = found["queries"][1]["results"][0]
    assert best["label"] == str(paths[7].relative_to(tmp_path / "photos"))
    assert best["score"] == pytest.approx(1.0, abs=1e-5)


def test_adding_passes_over_the_known_and_replaces_the_changed(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(indexing, "COMMIT_ROWS", 4)  # so that one run commits several times
    photos = tmp_path / "photos"
    paths = write_images(photos, 9)
    add_images(tmp_path / "index", str(photos), encoder, batch_size=3)
    (paths[2]).write_bytes(paths[5].read_bytes())
    more = write_images(photos, 4, seed=1)
    report = add_images(tmp_path / "index", str(photos), encoder, batch_size=3)
    assert (report.added, report.known, report.total) == (5, 8, 13)
    index = ImageIndex.open(tmp_path / "index")
    assert [item.id for item in index.items] == [str(p) for p in paths + more]
    np.testing.assert_allclose(index.embeddings(), truth(encoder, paths + more), atol=1e-5)
    assert report.gone == 0
    paths[0].unlink()
    report = add_images(tmp_path / "index", str(photos), encoder, batch_size=3)
    assert (report.added, report.known, report.total, report.gone) == (0, 12, 13, 1)
    assert "13 in the index, 1 of them no longer there" in report.text()


def test_broken_images_are_left_out_and_reported(tmp_path, encoder):
    paths = write_images(tmp_path / "photos", 3)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    report = add_images(tmp_path / "index", str(tmp_path / "photos"), encoder)
    broken = str(tmp_path / "photos" / "broken.jpg")
    assert list(report.not_indexed) == [broken]
    assert "1 left out" in report.text() and broken in report.text()
    assert len(np.load(tmp_path / "index" / "embeddings.npy")) == len(paths)


def test_links_and_hidden_files_are_passed_over_and_named(tmp_path, encoder):
    photos = tmp_path / "photos"
    paths = write_images(photos, 3)
    (photos / "gone.jpg").symlink_to("nowhere.jpg")
    (photos / ".hidden").mkdir()
    (photos / ".hidden" / "a.png").write_bytes(paths[0].read_bytes())
    (photos / "again").symlink_to(photos / "a")
    for i in range(12):
        (photos / f"bad{i:02d}.jpg").write_bytes(b"<html>")
    report = add_images(tmp_path / "index", str(photos), encoder)
    assert report.added == 3 and len(report.not_indexed) == 15
    lines = (tmp_path / "index" / "not_indexed.jsonl").read_text().splitlines()
    named = {Path(json.loads(line)["file"]).name: json.loads(line)["reason"] for line in lines}
    assert "No such file" in named["gone.jpg"] and named["a.png"] == "hidden"
    assert named["again"] == "link to a folder" and "bad11.jpg" in named
    assert "and 5 more" in report.text()


def test_a_name_that_is_no_text_and_two_names_of_one_file(tmp_path, encoder, capsys):
    photos = tmp_path / "photos"
    (path,) = write_images(photos, 1)
    os.rename(path, os.fsencode(photos) + b"/caf\xe9\n.png")
    os.symlink(os.fsencode(photos) + b"/caf\xe9\n.png", photos / "link.png")
    report = add_images(tmp_path / "index", str(photos), encoder)
    assert report.total == 1 and list(report.not_indexed.values()) == [
        "the same file as caf\ufffd\n.png"
    ]
    searcher = Searcher(tmp_path / "index")
    assert searcher.picture(searcher.index.items[0]).size == (30, 20)
    assert add_images(tmp_path / "index", str(photos), encoder).known == 1
    arguments = [f"--index={tmp_path / 'index'}", "--text=dog", f"--out={tmp_path / 'found'}"]
    assert run(retrieve, ["query", *arguments]) == 0
    assert "  caf\ufffd .png\n" in capsys.readouterr().out  # on one line
    found = json.loads((tmp_path / "found" / "results.json").read_text())
    assert os.fsencode(found["queries"][0]["results"][0]["id"]).endswith(b"/caf\xe9\n.png")


def test_what_is_left_out_says_why(tmp_path, encoder, monkeypatch):
    photos = tmp_path / "photos"
    write_images(photos, 1)
    Image.new("1", (2**13, 2**13 + 1)).save(photos / "huge.png")
    Image.new("RGB", (20, 20)).save(photos / "gone.png")
    create = indexing._open_or_create

    def lose_one(path, encoder):
        (photos / "gone.png").unlink()  # after the folder was listed
        return create(path, encoder)

    monkeypatch.setattr(indexing, "_open_or_create", lose_one)
    report = add_images(tmp_path / "index", str(photos), encoder)
    reasons = {Path(file).name: reason for file, reason in report.not_indexed.items()}
    assert "8192x8193 pixels; at most" in reasons["huge.png"]
    assert reasons["gone.png"] == "No such file or directory"


def test_embeddings_that_are_no_numbers_never_reach_an_index(tmp_path, export, monkeypatch):
    diverged = ExportEncoder(export)
    nan = np.full((128, 8), np.nan, np.float32)
    monkeypatch.setattr(diverged, "_encode_bytes", lambda files: nan)
    monkeypatch.setattr(diverged, "_encode_text", lambda texts: nan)
    write_images(tmp_path / "photos", 1)
    with pytest.raises(UserError, match="not finite: it has diverged"):
        add_images(tmp_path / "index", str(tmp_path / "photos"), diverged)
    with pytest.raises(UserError, match="not finite: it has diverged"):
        diverged.encode_text(["a dog"])


def test_an_index_whose_model_was_moved_says_so(tmp_path, encoder):
    write_images(tmp_path / "photos", 1)
    add_images(tmp_path / "index", str(tmp_path / "photos"), encoder)
    meta = tmp_path / "index" / "meta.json"
    meta.write_text(meta.read_text().replace(encoder.path, "/gone"))
    with pytest.raises(UserError, match="by the model in /gone, which is not there: give --model"):
        Searcher(tmp_path / "index")
    Searcher(tmp_path / "index", encoder.path)


def test_another_model_is_refused_when_adding_and_when_asking(tmp_path, encoder, tmp_path_factory):
    write_images(tmp_path / "photos", 2)
    add_images(tmp_path / "index", str(tmp_path / "photos"), encoder)
    other = small_export(tmp_path_factory.mktemp("other"), seed=1)
    with pytest.raises(UserError, match="built by another model"):
        add_images(tmp_path / "index", str(tmp_path / "photos"), ExportEncoder(other))
    with pytest.raises(UserError, match="built by another model"):
        Searcher(tmp_path / "index", other)


def test_a_data_set_keeps_thumbnails_in_the_index(tmp_path, encoder):
    paths = write_images(tmp_path / "photos", 5)
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    path = str(prepared / "part.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for i, photo in enumerate(paths):
            of_bytes = [[photo.read_bytes()], [f"caption {i}".encode()]]
            features = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
                for name, value in zip(("image", "captions"), of_bytes, strict=True)
            }
            record = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(record.SerializeToString())
    manifest = Manifest("set", (Source("set"),), (Shard(path, 5),))
    manifest.save(str(prepared / "manifest.json"))
    report = add_images(tmp_path / "index", str(prepared), encoder, batch_size=2)
    again = add_images(tmp_path / "index", str(prepared), encoder, batch_size=2)
    assert (report.added, again.added, again.known) == (5, 0, 5)
    index = ImageIndex.open(tmp_path / "index")
    assert [item.label for item in index.items] == [f"caption {i}" for i in range(5)]
    np.testing.assert_allclose(index.embeddings(), truth(encoder, paths), atol=1e-5)
    kept = Image.open(io.BytesIO(index.thumbnail(index.items[3])))
    assert kept.format == "JPEG" and kept.size == (30, 20)
    before = np.asarray(Image.open(paths[3]), np.float32).mean((0, 1))
    np.testing.assert_allclose(np.asarray(kept, np.float32).mean((0, 1)), before, atol=3)
    assert again.gone == 0
    fewer = Manifest("set", (Source("set"),), (Shard(path, 3),))
    fewer.save(str(prepared / "manifest.json"))
    assert add_images(tmp_path / "index", str(prepared), encoder, batch_size=2).gone == 2


def test_command_line_writes_the_sheet_and_the_json(tmp_path, export, encoder, capsys, monkeypatch):
    paths = write_images(tmp_path / "photos", 4)
    add_images(tmp_path / "index", str(tmp_path / "photos"), encoder)
    words = [
        "query", f"--index={tmp_path / 'index'}", "--text=a red dog", "--text=犬",
        f"--image={paths[0]}", "-k", "3", f"--out={tmp_path / 'found'}",
    ]  # fmt: skip
    assert run(retrieve, words) == 0
    found = json.loads((tmp_path / "found" / "results.json").read_text())
    assert [query.get("text") for query in found["queries"]] == ["a red dog", "犬", None]
    assert [len(query["results"]) for query in found["queries"]] == [3, 3, 3]
    assert found["queries"][2]["results"][0]["id"] == str(paths[0])
    sheet = Image.open(tmp_path / "found" / "contact_sheet.png")
    assert sheet.height > 3 * 96
    assert str(paths[0].relative_to(tmp_path / "photos")) in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO("dog\n\na cat\n"))
    assert run(retrieve, ["query", f"--index={tmp_path / 'index'}", "--text=-"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if line[0] != " "] == ["dog", "a cat"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["quary"], "expected one command, index or query, found ['quary']"),
        (["query", "red apple"], "goes into --text or --image"),
        (["index", "--images=x"], "--model, --out missing"),
        (["query", "--index=nowhere"], "nothing to look for"),
        (["query", "--index=nowhere", "--text= "], "--text is empty"),
        (["query", "--index=x", "--text=x", "--images=y"], "flag of `retrieve index` alone"),
        (["index", "--images=x", "--text=y"], "--text is a flag of `retrieve query` alone"),
        (["query", "--index=nowhere", "--text=-", "--out=found"], "--text=- takes all queries"),
    ],
)
def test_wrong_commands_are_one_message(args, message):
    done = subprocess.run(
        [sys.executable, "-m", "jest_tf.retrieve", *args],
        cwd=ROOT, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_wrong_inputs_are_refused(tmp_path, encoder, export):
    with pytest.raises(UserError, match="is no folder"):
        add_images(tmp_path / "index", str(tmp_path / "none"), encoder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no readable file that ends in"):
        add_images(tmp_path / "index", str(tmp_path / "empty"), encoder)
    assert not (tmp_path / "index").exists()
    ImageIndex.create(tmp_path / "no_images", 8, {"path": export, "fingerprint": "x"})
    with pytest.raises(UserError, match="is empty"):
        Searcher(tmp_path / "no_images", export)
    write_images(tmp_path / "photos", 2)
    add_images(tmp_path / "index", str(tmp_path / "photos"), encoder)
    (tmp_path / "fake.png").write_bytes(b"no picture")
    searcher = Searcher(tmp_path / "index")
    with pytest.raises(UserError, match="fake.png is no JPEG"):
        searcher.find([], [str(tmp_path / "fake.png")], 1)
    with pytest.raises(UserError, match="No such file"):
        searcher.find([], [str(tmp_path / "missing.png")], 1)
