"""What takes long tells how far it is: each is run on a few records, with every line printed."""

import re

import pytest
from golden_models import imported
from small_export import small_export
from small_pictures import SmallEncoder, write_pictures

from jest_tf import progress, serve
from jest_tf.data import doctor, prepare, records
from jest_tf.data.prepared import Settings
from jest_tf.data.sources import open_source
from jest_tf.evaluation.base import Reader
from jest_tf.model_record import PixelRule
from jest_tf.serving.encoders import ExportEncoder
from jest_tf.serving.indexing import add_images

N = 5


@pytest.fixture
def told(monkeypatch, capfd):
    """Everything that was told since the last call."""
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    capfd.readouterr()
    return lambda: capfd.readouterr().err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("progress")
    lines = [f"{path.name},picture {i}" for i, path in enumerate(write_pictures(folder / "in", N))]
    (folder / "in" / "metadata.csv").write_text("\n".join(["file_name,text", *lines]) + "\n")
    prepare.prepare(Settings("folder", [str(folder / "in")], str(folder / "out")), say=str)
    return folder


@pytest.fixture
def manifest(folder):
    return open_source(str(folder / "out"))


def test_prepare(told, folder):
    prepare.prepare(Settings("folder", [str(folder / "in")], str(folder / "again")), say=str)
    lines = told().splitlines()
    # Pairs are told while their unit is not done; small ones are written together.
    assert re.match(rf"prepare: 0/1 units 0%  {N} pairs  \S+/s$", lines[0])
    assert re.match(rf"prepare: 1/1 units 100%  {N} pairs  .*0s left$", lines[-1])


def test_check_reads_every_record(told, manifest):
    doctor.examine(manifest)
    assert re.search(rf"reading .*: {N}/{N} records 100%  \S+/s  0s left\n$", told())


def test_captions_of_a_tokenizer(told, manifest):
    records.read_captions(manifest, 100)
    assert re.search(rf"reading captions of .*: {N}/{N} records 100%", told())


def test_evaluation(told, folder):
    encoder = SmallEncoder()
    encoder.decode_size, encoder.pixels = 5, PixelRule()
    encoder.encode_image = lambda images: encoder.unit(images.reshape(len(images), -1))
    reader = Reader(encoder, batch_size=2, data_dir=None)
    reader.embed(str(folder / "out"))
    reader.embed_texts(["a", "b", "c"])
    said = told()
    assert re.search(rf"embedding .*: {N}/{N} pictures 100%", said)
    assert "embedding texts: 2/2 batches 100%" in said


def test_index(told, folder, tmp_path):
    add_images(tmp_path / "index", str(folder / "in"), SmallEncoder(), batch_size=2)
    assert re.search(rf"indexing .*: {N}/{N} pictures 100%", told())


def test_import(told, tmp_path):
    imported("siglip", tmp_path)
    assert re.search(r"reading weights: (\d+)/\1 tensors 100%", told())


def test_export_and_loading_of_a_server(told, folder, tmp_path):
    export = small_export(tmp_path)
    assert "export: 5/5 parts 100%" in told()
    add_images(tmp_path / "index", str(folder / "in"), ExportEncoder(export), batch_size=N)
    told()
    serve.FLAGS(["serve", f"--index={tmp_path / 'index'}", f"--model={export}"])
    _, n = serve.make_app([str(tmp_path / "index")])
    assert n == N and "loading: 1/1 indexes 100%" in told()
