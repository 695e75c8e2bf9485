"""Every source format, written by its real writer or to its documented schema, ends as records."""

import io
import json
import os
import pathlib
import tarfile
import tracemalloc
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from commands import run
from PIL import Image
from small_shards import example, write_shard

from jest_tf import prepare
from jest_tf.data import pipeline, preprocess, sources, tfds_source
from jest_tf.data.formats import folder, table, tar
from jest_tf.data.formats.pairs import Settings
from jest_tf.data.manifest import Manifest
from jest_tf.data.records import shard_records

WRITTEN = pathlib.Path(__file__).parent / "written_by_img2dataset"


def settings(path, **fields):
    return Settings("any", (str(path),), "no/output", **fields)


def jpeg(number: int, size=(32, 24)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (number * 9 % 256, 100, 50)).save(out, "JPEG")
    return out.getvalue()


def rows_of(folder) -> list[tuple[int, bytes, list[bytes]]]:
    manifest = sources.open_source(str(folder))
    shards = range(len(manifest.shards))
    records = [record for index in shards for record in shard_records(manifest, index)]
    return [(record.id, record.image, record.captions) for record in records]


def rejected_of(folder) -> dict[str, str]:
    lines = (folder / "rejected.jsonl").read_text().splitlines()
    return {row["record"]: row["reason"] for row in map(json.loads, lines)}


def test_webdataset_tars_by_the_real_writer(tmp_path, tokenizer):
    import webdataset

    for shard in range(3):
        with webdataset.TarWriter(str(tmp_path / f"{shard:05d}.tar")) as writer:
            for n in range(shard * 10, shard * 10 + 10):
                writer.write({"__key__": f"{n:09d}", "jpg": jpeg(n), "txt": f"record {n}"})
    out = tmp_path / "out"
    command = ["webdataset", f"{tmp_path}/*.tar", f"--out={out}", "--records_per_shard=4"]
    assert run(prepare, command) == 0
    rows = rows_of(out)
    assert [texts for _, _, texts in rows] == [[f"record {n}".encode()] for n in range(30)]
    assert [image for _, image, _ in rows] == [jpeg(n) for n in range(30)]
    assert len({record_id for record_id, _, _ in rows}) == 30
    manifest = sources.open_source(str(out))
    assert [shard.records for shard in manifest.shards] == [4, 4, 2] * 3
    dataset = pipeline.super_batches(manifest, tokenizer, super_batch=8, image_size=8, seed=0)
    assert next(dataset.as_numpy_iterator())["valid"].all()


def test_img2dataset_json_captions_and_a_truncated_tar(tmp_path):
    tar_path = tmp_path / "00000.tar"
    with tarfile.open(tar_path, "w") as tar:
        for n in range(6):
            meta = {"caption": f"record {n}", "key": f"{n:09d}", "status": "success"}
            for ending, content in (("jpg", jpeg(n)), ("json", json.dumps(meta).encode())):
                info = tarfile.TarInfo(f"{n:09d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    content = tar_path.read_bytes()
    tar_path.write_bytes(content[: 4 * 2048 + 700])
    out = tmp_path / "out"
    assert run(prepare, ["webdataset", str(tar_path), f"--out={out}"]) == 0
    texts = [t[0] for _, _, t in rows_of(out)]
    assert texts == [f"record {n}".encode() for n in range(len(texts))] and 0 < len(texts) < 6
    assert any("ends early" in reason for reason in rejected_of(out).values())


def test_archives_that_are_damaged_or_unpack_without_end_are_told(tmp_path, monkeypatch):
    def packed(name, members):
        with tarfile.open(tmp_path / name, "w:gz") as archive:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return tmp_path / name

    monkeypatch.setattr(tar.files, "MAX_FILE_BYTES", 10_000)
    bomb = packed("bomb.tar", {"a.jpg": b"0" * 10_001, "b.jpg": jpeg(1), "b.txt": b"a picture"})
    assert bomb.stat().st_size < 2_000
    cut = tmp_path / "cut.tar"
    cut.write_bytes(bomb.read_bytes()[:3] + b"\x04" + bomb.read_bytes()[4:10])  # ends in its header
    found = [r for unit in tar.open_tars(settings(bomb)).units for r in unit.read()]
    assert [type(r).__name__ for r in found] == ["Rejected", "Pair"]
    assert "10,001 bytes" in found[0].reason and found[1].key == "bomb.tar:b"
    (lost,) = [r for unit in tar.open_tars(settings(cut)).units for r in unit.read()]
    assert "ends early" in lost.reason


def test_a_source_without_a_record_is_told(tmp_path, capsys):
    empty = pa.table({"image": pa.array([], pa.binary()), "caption": pa.array([], pa.string())})
    pq.write_table(empty, tmp_path / "empty.parquet")
    out = f"--out={tmp_path / 'out'}"
    assert run(prepare, ["parquet", str(tmp_path / "empty.parquet"), out]) == 2
    assert "empty.parquet: there is no record in it" in capsys.readouterr().err


def test_members_of_a_tar_stay_in_it(tmp_path):
    """A name is a key and never a place to write."""
    path = tmp_path / "in" / "evil.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for name in ("../escaped", "/tmp/escaped-by-jest-tf", "../../x/../escaped"):
            for ending, content in ((".jpg", jpeg(1)), (".txt", b"out")):
                info = tarfile.TarInfo(name + ending)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    out = tmp_path / "out"
    assert run(prepare, ["webdataset", str(path), f"--out={out}"]) == 0
    assert [texts for _, _, texts in rows_of(out)] == [[b"out"]] * 3
    assert {p.name for p in tmp_path.iterdir()} == {"in", "out"}
    assert not list(tmp_path.rglob("*escaped*"))
    assert not os.path.exists("/tmp/escaped-by-jest-tf.jpg")


def test_names_and_tables_of_any_bytes_are_refused_one_by_one(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    rows = b"a.jpg\tsound\n\xff\xfe.jpg\tno name\nnull\x00.jpg\tno name either\n"
    (tmp_path / "table.tsv").write_bytes(b"filepath\ttitle\n" + rows)
    (tmp_path / "captions.tsv").write_bytes(rows)
    units = list(table.open_tables(settings(tmp_path / "table.tsv")).units)
    captions = str(tmp_path / "captions.tsv")
    units += folder.open_folder(settings(tmp_path, captions=captions)).units
    for unit in units:
        kinds = sorted(type(record).__name__ for record in unit.read())
        assert kinds == ["Pair", "Rejected", "Rejected"]


def test_img2dataset_tfrecords_are_read_in_place(tmp_path, tokenizer):
    records = [
        example(key=f"{n:09d}", jpg=jpeg(n), txt=f"record {n}", width=32, url=f"http://x/{n}")
        for n in range(20)
    ]
    write_shard(tmp_path / "00000.tfrecord", records[:12])
    write_shard(tmp_path / "00001.tfrecord", records[12:])
    command = ["img2dataset", f"{tmp_path}/*.tfrecord", f"--out={tmp_path}", "--name=web"]
    assert run(prepare, command) == 0
    manifest = sources.open_source(str(tmp_path))
    assert manifest.n_records == 20 and "00001.tfrecord" in manifest.shards[1].path
    dataset = pipeline.in_order(manifest, tokenizer, 20, image_size=8)
    batch = next(dataset.as_numpy_iterator())
    assert batch["valid"].all() and len(set(batch["id"].tolist())) == 20
    assert batch["id"].tolist() == [r.id for i in (0, 1) for r in shard_records(manifest, i)]


def test_what_img2dataset_itself_wrote(tmp_path, tokenizer):
    """Its files lie beside this test (README.md there): it cannot be installed beside TF 2.20."""
    found = {}
    for kind, ending in (("webdataset", "tar"), ("img2dataset", "tfrecord")):
        out = tmp_path / kind
        assert run(prepare, [kind, f"{WRITTEN}/*.{ending}", f"--out={out}"]) == 0
        found[kind] = sorted((texts, image) for _, image, texts in rows_of(out))
    assert found["webdataset"] == found["img2dataset"]
    numbers = [8, 9, 10, 11]
    texts = sorted([f"picture number {n} é".encode()] for n in numbers)
    assert [texts for texts, _ in found["webdataset"]] == texts
    manifest = sources.open_source(str(tmp_path / "img2dataset"))
    batch = next(pipeline.in_order(manifest, tokenizer, 4, image_size=32).as_numpy_iterator())
    assert batch["valid"].all() and (batch["image"].std(axis=(1, 2, 3)) > 20).all()


def test_open_clip_csv(tmp_path):
    lines = ["filepath\ttitle"]
    for n in range(7):
        (tmp_path / f"{n}.jpg").write_bytes(jpeg(n))
        lines.append(f"{n}.jpg\trecord {n}")
    lines.append("gone.jpg\tlost")
    lines[3] = '2.jpg\t"two lines\nand a ""quote"""'
    lines += ["", "3.jpg"]
    (tmp_path / "train.tsv").write_text("\r\n".join(lines))
    out = tmp_path / "out"
    arguments = [f"{tmp_path}/train.tsv", f"--out={out}", "--records_per_shard=3"]
    assert run(prepare, ["csv", *arguments]) == 0
    texts = [f"record {n}" for n in range(7)]
    texts[2] = 'two lines\nand a "quote"'
    assert [(image, texts) for _, image, texts in rows_of(out)] == [
        (jpeg(n), [texts[n].encode()]) for n in range(7)
    ]
    assert "cannot be read" in rejected_of(out)["gone.jpg"]
    assert "a row of 1 cells" in rejected_of(out)["3.jpg"]


def test_a_table_is_scanned_and_not_held(tmp_path):
    """100,000 rows take a fraction of the memory of their cells."""
    row = b"folder/picture.jpg\t" + b"a caption of some length " * 4 + b"\n"
    path = tmp_path / "train.tsv"
    with open(path, "wb") as file:
        file.write(b"filepath\ttitle\n")
        for _ in range(100):
            file.write(row * 1000)
    tracemalloc.start()
    units = table.open_tables(settings(path)).units
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(units) == 100 and path.stat().st_size > 10_000_000
    assert peak < 1_000_000
    assert len(list(units[-1].read())) == 1000


def test_parquet_as_on_the_hub(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": jpeg(n), "path": None} for n in range(9)] + [None]
    texts = [[f"record {n}", f"red {n}"] for n in range(9)] + [["lost"]]
    pq.write_table(
        pa.table({"image": images, "text": texts}), tmp_path / "a.parquet", row_group_size=4
    )
    out = tmp_path / "out"
    assert run(prepare, ["parquet", f"{tmp_path}/a.parquet", f"--out={out}"]) == 0
    rows = rows_of(out)
    assert [texts for _, _, texts in rows][8] == [b"record 8", b"red 8"] and len(rows) == 9
    assert list(rejected_of(out).values()) == ["no image bytes"]


def test_a_folder_with_captions_resized_and_with_bad_input(tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    images = {
        "a.jpg": jpeg(1, (400, 200)),
        "b.png": b"<html>404</html>",
        "c.jpg": b"",
        "d.jpg": jpeg(2, (1, 1)),
        "e.jpg": jpeg(3),
        "f.jpg": jpeg(4),
        "g.jpg": jpeg(5),
    }
    bomb = bytearray(jpeg(6))
    at = bomb.index(b"\xff\xc0") + 5
    bomb[at : at + 4] = b"\x27\x10\x27\x10"
    images["h.jpg"] = bytes(bomb)
    for name, content in images.items():
        (photos / name).write_bytes(content)
    lines = [f"{name},about {name}".encode() for name in images] + [b"a.jpg,a second caption"]
    lines[4] = b"e.jpg,caf\xe9"
    lines[5] = b"f.jpg,  "
    lines[6] = b"g.jpg," + b"long " * 200_000
    (photos / "captions.csv").write_bytes(b"file,caption\n" + b"\n".join(lines))
    out = tmp_path / "out"
    command = ["folder", str(photos), f"--out={out}", "--max_side=100", "--max_rejected=0.7"]
    assert run(prepare, command) == 0
    rows = {texts[0]: (image, texts) for _, image, texts in rows_of(out)}
    assert set(rows) == {b"about a.jpg", b"caf", (b"long " * 2000).strip()}
    assert rows[b"about a.jpg"][1] == [b"about a.jpg", b"a second caption"]
    assert Image.open(io.BytesIO(rows[b"about a.jpg"][0])).size == (200, 100)
    reasons = rejected_of(out)
    assert "no known format" in reasons["b.png"] and "carry no content" in reasons["d.jpg"]
    assert reasons["f.jpg"] == "no caption" and "10000x10000" in reasons["h.jpg"]
    assert set(reasons) == {"b.png", "c.jpg", "d.jpg", "f.jpg", "h.jpg"}
    printed = capsys.readouterr().out
    assert "1 captions not utf8" in printed and "1 captions cut" in printed


def test_unusual_pictures_are_kept_or_refused(tmp_path):
    """CMYK, 16 bits, animation, another format than training reads, and a PNG bomb."""

    def saved(picture, kind, **kwargs) -> bytes:
        out = io.BytesIO()
        picture.save(out, kind, **kwargs)
        return out.getvalue()

    rgb = Image.open(io.BytesIO(jpeg(7)))
    deep = Image.fromarray((np.arange(24 * 32).reshape(24, 32) * 80).astype(np.uint16))
    bomb = bytearray(saved(rgb, "PNG"))
    bomb[16:24] = (10_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    images = {
        "animated.gif": saved(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)]),
        "bomb.png": bytes(bomb),
        "cmyk.jpg": saved(rgb.convert("CMYK"), "JPEG"),
        "deep.png": saved(deep, "PNG"),
        "tiff.png": saved(rgb, "TIFF"),
    }
    for name, content in images.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name[:-4]}.txt").write_text(name)
    out = tmp_path / "out"
    assert run(prepare, ["folder", str(tmp_path), f"--out={out}"]) == 0
    reasons = rejected_of(out)
    assert set(reasons) == {"bomb.png"} and "10000x10000" in reasons["bomb.png"]
    rows = {texts[0].decode(): image for _, image, texts in rows_of(out)}
    assert set(rows) == set(images) - {"bomb.png"}
    assert rows["tiff.png"].startswith(b"\xff\xd8") and rows["cmyk.jpg"] == images["cmyk.jpg"]
    for name, image in rows.items():
        decoded, ok = preprocess.decode(tf.constant(image), 16)
        assert ok and decoded.numpy().any(), name


def test_sidecar_texts(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}.jpg").write_bytes(jpeg(n))
        (tmp_path / f"{n}.txt").write_text(f"record {n}\nred {n}\n")
    out = tmp_path / "out"
    assert run(prepare, ["folder", str(tmp_path), f"--out={out}"]) == 0
    assert [texts for _, _, texts in rows_of(out)][2] == [b"record 2", b"red 2"]


def test_classes_that_differ_in_a_byte_that_is_no_text_stay_apart(tmp_path):
    names = (b"caf\xe9", b"caf\xe8", "caf\u00e9".encode())
    for n, name in enumerate(names):
        (tmp_path / f"{n}.jpg").write_bytes(jpeg(n))
        (tmp_path / f"{n}.cls").write_bytes(name)
    out = tmp_path / "out"
    assert run(prepare, ["folder", str(tmp_path), f"--out={out}"]) == 0
    (source,) = Manifest.load(str(out / "manifest.json")).sources
    assert source.labels == (r"caf\xe8", r"caf\xe9", "caf\u00e9")


def test_a_rerun_does_the_units_that_are_missing(tmp_path, capsys):
    for n in range(12):
        (tmp_path / f"{n:02d}.jpg").write_bytes(jpeg(n))
        (tmp_path / f"{n:02d}.txt").write_text(f"record {n}")
    out = tmp_path / "out"
    command = ["folder", str(tmp_path), f"--out={out}", "--records_per_shard=3"]
    assert run(prepare, command) == 0
    for path in [*out.glob("*-00000[02]*"), out / "manifest.json"]:
        path.unlink()
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("shard-*")}
    assert run(prepare, command) == 0
    assert "2 to do here" in capsys.readouterr().out
    assert {n: (out / n).stat().st_mtime_ns for n in before} == before
    rows = rows_of(out)
    assert [texts[0] for _, _, texts in rows] == [f"record {n}".encode() for n in range(12)]
    whole = tmp_path / "whole"
    assert run(prepare, [*command[:2], f"--out={whole}", command[3]]) == 0
    assert [row[0] for row in rows_of(whole)] == [row[0] for row in rows]
    assert run(prepare, [*command, "--max_side=8"]) == 2
    assert "max_side: None then, 8 now" in capsys.readouterr().err


def test_repeated_ids_are_counted(tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    (tmp_path / "t.csv").write_text("filepath,title\n" + "a.jpg,one picture\n" * 5)
    assert run(prepare, ["csv", f"{tmp_path}/t.csv", f"--out={tmp_path}/out"]) == 0
    assert "4 records with a repeated id" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["webdataset", "/no/such/*.tar"], "no file matches"),
        (["folder", "/no/such"], "not a folder"),
        (["folder", "{tmp}"], "no image with a caption"),
        (["parquet", "{tmp}/bad.bin"], "cannot be read as Parquet"),
        (["csv", "{tmp}/bad.bin"], "no image column"),
        (["img2dataset", "{tmp}/bad.bin"], "corrupt or cut"),
    ],
)
def test_bad_arguments_are_explained(tmp_path, capsys, arguments, words):
    (tmp_path / "bad.bin").write_bytes(b"neither this nor that" * 10)
    arguments = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    assert run(prepare, [*arguments, f"--out={tmp_path}/out"]) == 2
    assert words in capsys.readouterr().err


def test_a_real_tfds_set_is_read_in_place(tmp_path, tokenizer):
    import tensorflow_datasets as tfds

    class TinyCaptions(tfds.core.GeneratorBasedBuilder):
        """Nested captions and image/id, as coco_captions has them."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            captions = tfds.features.Sequence({"id": np.int64, "text": tf.string})
            features = {"image": tfds.features.Image(), "image/id": np.int64, "captions": captions}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for n in range(12):
                texts = [{"id": 10 * n + k, "text": f"record {n}"} for k in range(3)]
                image = np.full((9, 7, 3), n, np.uint8)
                yield n, {"image": image, "image/id": 100 + n, "captions": texts}

    builder = TinyCaptions(data_dir=str(tmp_path))
    builder.download_and_prepare()
    manifest = tfds_source.manifest(builder, "train[:50%]")
    assert manifest.n_records == 6 and manifest.sources[0].captions == "captions/text"
    dataset = pipeline.super_batches(
        tfds_source.manifest(builder, "train"), tokenizer, super_batch=12, image_size=4,
        seed=0, n_lanes=1,
    )  # fmt: skip
    batch = next(dataset.as_numpy_iterator())
    assert batch["valid"].all() and sorted(batch["id"].tolist()) == list(range(100, 112))
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["id"] - 100)
