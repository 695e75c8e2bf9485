"""Pictures that stay in their tars: the same records, order and errors as from copies of them."""

import dataclasses
import io
import json
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from commands import run
from PIL import Image
from tensorflow.python.lib.io import _pywrap_file_io

from jest_tf import prepare
from jest_tf.data import evaluation_data, in_place, pipeline, records
from jest_tf.data.fields import in_python
from jest_tf.data.manifest import check_files, mix
from jest_tf.data.reference_cache import CacheWriter
from jest_tf.data.retry import resilient_steps
from jest_tf.data.sources import open_source
from jest_tf.data.subset import write_manifest
from jest_tf.errors import UserError

N_TARS, PER_TAR = 3, 14
LAYOUT = {"super_batch": 12, "image_size": 8, "seed": 5, "n_lanes": 2}


def picture(number: int) -> bytes:
    """Noise, of whatever kind: every seventh must be changed to be read by the rule, or is bad."""
    pixels = np.random.default_rng(number).integers(0, 256, [12, 20 + number % 3, 4], np.uint8)
    out, kind = io.BytesIO(), number % 7
    image = Image.fromarray(pixels if kind == 1 else pixels[..., :3])
    if kind == 2:
        turned = Image.Exif()
        turned[0x112] = 6
        image.save(out, "JPEG", exif=turned)
    elif kind == 3:
        return b"<html>no picture</html>"
    else:
        image.save(out, {0: "WEBP", 1: "PNG", 4: "TIFF"}.get(kind, "JPEG"))
    return out.getvalue()


def write_tars(folder) -> None:
    for t in range(N_TARS):
        with tarfile.open(folder / f"{t:05d}.tar", "w") as tar:
            for n in range(t * PER_TAR, (t + 1) * PER_TAR):
                texts = {"caption": [f"record {n}", f"or {n}"], "cls": n % 3}
                for ending, content in (("json", json.dumps(texts).encode()), ("jpg", picture(n))):
                    info = tarfile.TarInfo(f"{n:04d}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of the tars, manifest of copies, manifest in place)."""
    folder = tmp_path_factory.mktemp("tars")
    write_tars(folder)
    for out, how in (("copied", []), ("listed", ["--in_place"])):
        command = ["webdataset", f"{folder}/*.tar", f"--out={folder}/{out}", *how]
        assert run(prepare, [*command, "--records_per_shard=5"]) == 0
    return folder, *(open_source(str(folder / out)) for out in ("copied", "listed"))


@pytest.fixture
def own(tmp_path):
    """A manifest in place whose tars a test may damage."""
    write_tars(tmp_path)
    assert run(prepare, ["webdataset", str(tmp_path), f"--out={tmp_path}/out", "--in_place"]) == 0
    return open_source(str(tmp_path / "out"))


def all_records(manifest):
    return [r for i in range(len(manifest.shards)) for r in records.shard_records(manifest, i)]


def assert_same(one, other):
    tf.nest.map_structure(np.testing.assert_array_equal, one, other)


def batches(manifest, tokenizer, steps=9, **layout):
    dataset = pipeline.super_batches(manifest, tokenizer, **LAYOUT | layout)
    return list(dataset.take(steps).as_numpy_iterator())


def test_records_rejects_and_classes_are_those_of_copies(made):
    folder, copied, listed = made
    assert all_records(listed) == all_records(copied)
    assert listed.n_records == 36 and listed.sources == copied.sources
    rejected = [(folder / out / "rejected.jsonl").read_bytes() for out in ("copied", "listed")]
    assert rejected[0] == rejected[1] and rejected[0].count(b"\n") == 6
    for shard in listed.shards:  # only what had to be changed is stored
        for serialized in tf.data.TFRecordDataset(shard.path).as_numpy_iterator():
            feature = tf.train.Example.FromString(serialized).features.feature
            number = int(feature["key"].bytes_list.value[0].rpartition(b":")[2])
            assert ("image" in feature) == (number % 7 in (1, 2, 4))
    both = mix([copied, listed], None, "both")
    raw = [next(tf.data.TFRecordDataset(m.shards[0].path).as_numpy_iterator()) for m in
           (copied, listed)]  # fmt: skip
    whole = in_place.Completer(both)(tf.constant([0, 36], tf.int64), tf.constant(raw))
    one, other = (in_python(both.sources[0], record) for record in whole.numpy())
    assert one == other == all_records(copied)[0]
    assert records.look_up(listed, [35, 0, 99]) == records.look_up(copied, [35, 0, 99])


def test_every_step_is_that_of_copies_and_resumes_exactly(made, tokenizer):
    _, copied, listed = made
    expected, shared = batches(copied, tokenizer), pipeline.Shared()
    assert_same(batches(listed, tokenizer, shared=shared), expected)
    resumed = batches(listed, tokenizer, steps=4, start_step=5, shared=shared)
    assert_same(resumed, expected[5:])
    assert all(step["valid"].all() for step in expected)
    read = [evaluation_data.EvaluationData(m, 8) for m in (listed, copied)]
    rows = np.array([0, 7, 35])
    assert_same(*([b._asdict() for b in data.batches(20, rows)] for data in read))


def test_a_reference_cache_and_a_subset_fit(made, tokenizer, tmp_path):
    _, copied, listed = made
    writer = CacheWriter(str(tmp_path), listed, identity={}, dim=4, scale=10.0, bias=0.0)
    for index in writer.missing_shards():
        rows = records.shard_records(listed, index)
        writer.write_shard(index, [(i, np.full(4, 0.5), np.full([2, 4], 0.5)) for i, *_ in rows])
    steps = batches(listed, tokenizer, 3, reference_cache=writer.finish(), prefilter=0.5)
    assert all(step["valid"].all() for step in steps)
    kept = np.arange(copied.n_records) % 3 > 0
    parts = [
        open_source(write_manifest(m, kept, str(tmp_path / f"part-{name}"), "part"))
        for name, m in (("copied", copied), ("listed", listed))
    ]
    assert all_records(parts[1]) == all_records(parts[0])
    assert len(all_records(parts[1])) == 24


def changed(tar: str, at: int, by: bytes) -> None:
    with open(tar, "r+b") as file:
        file.seek(at)
        file.write(by)


def test_a_tar_that_is_gone_cut_or_another_is_named(own, tokenizer):
    check_files(own)
    gone, cut, other = sorted({shard.tar for shard in own.shards})
    tf.io.gfile.rename(gone, gone + ".away")
    with open(cut, "r+b") as file:
        file.truncate(5000)
    changed(other, 0, b"x")
    with pytest.raises(UserError) as raised:
        check_files(own)
    for told in (f"{gone}: NotFoundError", f"{cut}: 5,000 bytes", f"{other}: it begins"):
        assert told in str(raised.value)


def test_a_tar_that_goes_while_a_run_reads_is_named(own, tokenizer):
    dataset = pipeline.super_batches(own, tokenizer, **LAYOUT)
    again = lambda step: iter(dataset.skip(step))  # noqa: E731
    steps = resilient_steps(again, 0, own, max_retries=1, sleep=lambda _: None)
    tf.io.gfile.remove(own.shards[0].tar)
    with pytest.raises(UserError, match=rf"{own.shards[0].tar}: NotFoundError"):
        list(steps)


def test_a_picture_of_other_bytes_is_a_bad_record(own, tokenizer):
    """A right JPEG in the place of another: nothing but its hash tells."""
    shard = own.shards[0]
    with tarfile.open(shard.tar) as tar:
        members = {member.name: member for member in tar}
        content = tar.extractfile("0005.jpg").read()
    changed(shard.tar, members["0005.jpg"].offset_data + len(content) - 9, b"\x15\x02")
    check_files(own)
    read = next(iter(pipeline.in_order(own, tokenizer, own.n_records, image_size=8)))
    assert np.flatnonzero(~read["valid"].numpy()).tolist() == [4]  # one before it was rejected
    assert (read["id"].numpy() >= 0).all(), "only its picture is lost"
    assert [n for n, record in enumerate(all_records(own)) if not record.image] == [4]


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """(manifest of tars that no local file holds, manifest of copies, what was read of files).

    What was read: (path, bytes that are asked for at a time), by TensorFlow's own files.
    """
    write_tars(tmp_path)
    name = f"ram://{tmp_path.name}"
    tf.io.gfile.makedirs(name)
    for path in tmp_path.glob("*.tar"):
        tf.io.gfile.copy(str(path), f"{name}/{path.name}")
    read = []

    stream = _pywrap_file_io.BufferedInputStream

    def noted(path, n_bytes):
        read.append((path, n_bytes))
        return stream(path, n_bytes)

    monkeypatch.setattr(_pywrap_file_io, "BufferedInputStream", noted)
    for source, out, how in ((name, "listed", ["--in_place"]), (tmp_path, "copied", [])):
        command = ["webdataset", f"{source}/*.tar", f"--out={tmp_path}/{out}", "--name=tars", *how]
        assert run(prepare, command) == 0
    return *(open_source(str(tmp_path / out)) for out in ("listed", "copied")), read


def test_tars_in_a_bucket_are_read_by_parts(bucket, tokenizer):
    listed, copied, read = bucket
    assert all(shard.tar.startswith("ram://") for shard in listed.shards)
    assert all_records(listed) == all_records(copied)
    assert_same(batches(listed, tokenizer), batches(copied, tokenizer))
    read.clear()
    (record,) = records.look_up(listed, [0])
    assert [part for part in read if part[0].startswith("ram://")] == [
        (listed.shards[0].tar, len(record.image))
    ]


def test_a_tar_in_a_bucket_that_is_gone_or_cut_is_named(bucket, tokenizer):
    listed, _, _ = bucket
    tars = sorted({shard.tar for shard in listed.shards})
    dataset = pipeline.super_batches(listed, tokenizer, **LAYOUT)
    again = lambda step: iter(dataset.skip(step))  # noqa: E731
    for tar in tars:
        tf.io.gfile.remove(tar)
    with pytest.raises(UserError, match="NotFoundError") as raised:
        list(resilient_steps(again, 0, listed, max_retries=1, sleep=lambda _: None))
    assert all(tar in str(raised.value) for tar in tars)
    with tf.io.gfile.GFile(tars[0], "wb") as file:
        file.write(b"cut")
    with pytest.raises(tf.errors.OpError, match=f"{tars[0]} cannot be read at byte"):
        all_records(listed)


def test_what_cannot_stay_is_told(tmp_path, capfd):
    write_tars(tmp_path)
    packed = tmp_path / "packed"
    packed.mkdir()
    with tarfile.open(packed / "0.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "00000.tar", "a.jpg")
    for command, told in (
        (["webdataset", str(packed)], "0.tar.gz is compressed"),
        (["webdataset", str(tmp_path), "--max_side=8"], "--max_side, which shrinks copies"),
        (["folder", str(tmp_path)], "found folder"),
    ):
        assert run(prepare, [*command, f"--out={tmp_path}/out", "--in_place"]) == 2
        assert told in capfd.readouterr().err
    command = ["webdataset", f"{tmp_path}/0*.tar", f"--out={tmp_path}/one"]
    assert run(prepare, command) == 0
    assert run(prepare, [*command, "--in_place"]) == 2
    assert "'webdataset' then, 'webdataset in place' now" in capfd.readouterr().err
    moved = open_source(str(tmp_path / "one"))
    assert moved.fingerprint == dataclasses.replace(moved, name="other").fingerprint
