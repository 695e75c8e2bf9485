"""What people brought to `prepare`, one test per kind of input."""

import errno
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from commands import run
from odd_files import captions_of, features_of, picture, pictures, rejected_of, tar

from jest_tf import prepare
from jest_tf.data import prepare as library
from jest_tf.data import prepared, subset
from jest_tf.data.sources import open_source
from jest_tf.errors import UserError

BOM = b"\xef\xbb\xbf"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def numbered(n: int) -> list[list[str]]:
    return [[f"picture {i}"] for i in range(n)]


def csv_of(n: int, header: str = "file,caption\n", separator: str = ",") -> str:
    return header + "".join(f"{i}.jpg{separator}picture {i}\n" for i in range(n))


# -- captions of any type ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "kept", "reason"),
    [
        (["a dog", "my dog"], ["a dog", "my dog"], None),
        ([{"raw": "a dog", "id": 7}], ["a dog"], None),
        ({"caption": "a dog"}, ["a dog"], None),
        (["a dog", None], ["a dog"], None),
        (2013, None, "a number, not a text: 2013"),
        (True, None, "true or false"),
        ({"en": "a dog"}, None, "an object"),
        (["a dog", 7], None, "a number"),
        (None, None, "no caption"),
    ],
)
def test_captions_that_are_not_one_text(tmp_path, out, caption, kept, reason):
    members = []
    for n in range(8):
        text = caption if n == 3 else f"picture {n}"
        members += [(f"{n}.jpg", picture(n)), (f"{n}.json", json.dumps({"caption": text}).encode())]
    path = tar(tmp_path / "a.tar", members)
    assert run(prepare, ["webdataset", path, f"--out={out}"]) == 0
    expected = numbered(8)
    expected[3:4] = [kept] if kept else []
    assert captions_of(out) == expected
    rejected = rejected_of(out)
    assert list(rejected) == ([] if kept else ["a.tar:3"])
    assert not reason or reason in rejected["a.tar:3"]


def test_parquet_captions_of_other_types(tmp_path, out, capsys):
    image = [{"bytes": picture(n), "path": None} for n in range(4)]
    columns = {
        "number": list(range(4)),
        "structs": [[{"raw": f"picture {n}", "id": n}] for n in range(4)],
    }
    pq.write_table(pa.table({"image": image} | columns), tmp_path / "a.parquet")
    command = ["parquet", f"{tmp_path}/a.parquet", f"--out={out}"]
    assert run(prepare, [*command, "--caption_column=number"]) == 2
    assert "column 'number' is int64" in capsys.readouterr().err
    assert run(prepare, [*command, "--caption_column=structs"]) == 0
    assert captions_of(out) == numbered(4)


# -- tables --------------------------------------------------------------------------------------


def test_a_quotation_mark_that_nothing_closes(tmp_path, out, capsys):
    pictures(tmp_path, 6)
    texts = [f"picture {n}" for n in range(6)]
    texts[1], texts[3] = '"no place like home', 'end of "it"'
    rows = "".join(f"{n}.jpg\t{text}\n" for n, text in enumerate(texts))
    (tmp_path / "train.tsv").write_text("filepath\ttitle\n" + rows)
    assert run(prepare, ["csv", tmp_path / "train.tsv", f"--out={out}"]) == 0
    assert captions_of(out) == [[text] for text in texts]
    assert "1 rows have a quotation mark that nothing closes" in capsys.readouterr().out


def test_two_open_quotes_do_not_swallow_the_rows_between(tmp_path, out):
    pictures(tmp_path, 4)
    rows = '0.jpg\t"one\n1.jpg\ttwo\n2.jpg\tthree"\n3.jpg\t"four ""4"""\n'
    (tmp_path / "t.tsv").write_text("filepath\ttitle\n" + rows)
    assert run(prepare, ["csv", tmp_path / "t.tsv", f"--out={out}"]) == 0
    assert captions_of(out) == [['"one'], ["two"], ['three"'], ['four "4"']]


def test_quotes_can_be_switched_off(tmp_path, out):
    pictures(tmp_path, 2)
    (tmp_path / "t.tsv").write_text('filepath\ttitle\n0.jpg\t"all of it"\n1.jpg\tplain\n')
    assert run(prepare, ["csv", tmp_path / "t.tsv", "--noquotes", f"--out={out}"]) == 0
    assert captions_of(out) == [['"all of it"'], ["plain"]]


@pytest.mark.parametrize("inside", ["\n", "\u2028", "\x85", "\x0b"])
def test_captions_over_several_lines_stay_as_they_are(tmp_path, out, inside):
    pictures(tmp_path, 2)
    rows = "".join(f'{n}.jpg,"a red{inside}dog, {n}"\n' for n in range(2))
    (tmp_path / "captions.csv").write_text("file,caption\n" + rows, encoding="utf-8")
    assert run(prepare, ["folder", tmp_path, f"--out={out}"]) == 0
    assert captions_of(out) == [[f"a red{inside}dog, {n}"] for n in range(2)]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_byte_order_marks_blank_lines_and_line_ends(tmp_path, out, ends):
    pictures(tmp_path, 3)
    text = "0.jpg,picture 0\n\n1.jpg,picture 1\n2.jpg,picture 2\n\n".replace("\n", ends)
    (tmp_path / "captions.csv").write_bytes(BOM + text.encode())
    assert run(prepare, ["folder", tmp_path, f"--out={out}"]) == 0
    assert captions_of(out) == numbered(3)


def test_a_header_names_the_columns_and_else_they_go_by_position(tmp_path, out, capsys):
    (tmp_path / "named").mkdir()
    pictures(tmp_path / "named", 2)
    rows = "id,Caption,split,File_Name\n8,picture 0,x,0.jpg\n9,picture 1,y,1.jpg\n"
    (tmp_path / "named" / "captions.csv").write_text(rows)
    assert run(prepare, ["folder", tmp_path / "named", f"--out={out}"]) == 0
    assert captions_of(out) == numbered(2)
    pictures(tmp_path / "foreign", 2)
    (tmp_path / "foreign" / "captions.csv").write_text(csv_of(2, "Datei,Beschreibung\n"))
    assert run(prepare, ["folder", tmp_path / "foreign", f"--out={out}2"]) == 0
    assert captions_of(f"{out}2") == numbered(2)
    assert "first line was taken for a header: Datei, Beschreibung" in capsys.readouterr().out


def test_the_first_row_of_a_table_without_a_header_is_no_header(tmp_path, out):
    pictures(tmp_path, 3)
    (tmp_path / "captions.csv").write_text("00.jpg,gone\n1.jpg,picture 1\n2.jpg,picture 2\n")
    assert run(prepare, ["folder", tmp_path, f"--out={out}"]) == 0
    assert captions_of(out) == numbered(3)[1:]
    assert rejected_of(out) == {"00.jpg": "cannot be read: No such file or directory"}


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|"])
def test_separators_are_found_or_named(tmp_path, out, capsys, separator):
    pictures(tmp_path, 2)
    table = tmp_path / "t.csv"
    table.write_text(csv_of(2, f"filepath{separator} title\n", separator))
    assert run(prepare, ["csv", table, f"--out={out}"]) == 0
    assert captions_of(out) == numbered(2)
    named = "\\t" if separator == "\t" else separator
    assert run(prepare, ["csv", table, f"--out={out}2", f"--separator={named}"]) == 0
    assert run(prepare, ["csv", table, f"--out={out}3", "--separator=ab"]) == 2
    assert "--separator='ab': expected one character" in capsys.readouterr().err


def test_separators_inside_a_last_unquoted_caption_belong_to_it(tmp_path, out):
    pictures(tmp_path, 2)
    (tmp_path / "captions.csv").write_text("file,caption\n0.jpg,a red, round dog\n1.jpg,b\n")
    assert run(prepare, ["folder", tmp_path, f"--out={out}"]) == 0
    assert captions_of(out) == [["a red, round dog"], ["b"]]


# -- formats -------------------------------------------------------------------------------------


def test_imagefolders_of_the_hub(tmp_path, out):
    folder = tmp_path / "hub"
    pictures(folder / "train", 2)
    pictures(folder / "test", 2)
    lines = [json.dumps({"file_name": f"{n}.jpg", "text": f"picture {n}"}) for n in range(2)]
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines))
    (folder / "test" / "metadata.csv").write_text(csv_of(2, "file_name,text\n"))
    assert run(prepare, ["folder", folder, f"--out={out}"]) == 0
    assert captions_of(out) == numbered(2) * 2
    keys = [features["key"][0] for features in features_of(out)]
    assert keys == ["test/0.jpg", "test/1.jpg", "train/0.jpg", "train/1.jpg"]


def _coco(n):
    images = [{"id": i + 9, "file_name": f"{i}.jpg"} for i in range(n)]
    notes = [
        {"image_id": i + 9, "caption": f"picture {i}, seen {k} times"}
        for k in range(2)
        for i in range(n)
    ]
    return json.dumps({"images": images, "annotations": notes})


def _karpathy(n):
    rows = [
        {
            "filename": f"{i}.jpg",
            "filepath": "val2014",
            "split": "train" if i else "restval",
            "sentences": [{"raw": f"picture {i}, seen {k} times"} for k in range(2)],
        }
        for i in range(n)
    ]
    return json.dumps({"images": rows, "dataset": "coco"})


def _token(n):
    rows = [f"{i}.jpg#{k}\tpicture {i}, seen {k} times\n" for i in range(n) for k in range(2)]
    return "".join(rows)


def _list(n):
    texts = [[f"picture {i}, seen {k} times" for k in range(2)] for i in range(n)]
    return json.dumps([{"image": f"{i}.jpg", "caption": texts[i]} for i in range(n)])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions_val.json", _coco),
        ("dataset.json", _karpathy),
        ("results.token", _token),
        ("list.json", _list),
    ],
)
def test_caption_files_of_published_sets(tmp_path, out, capsys, name, content):
    folder = pictures(tmp_path / "in", 3)
    (folder / name).write_text(content(3))
    assert run(prepare, ["folder", folder, f"--out={out}"]) == 2
    assert name in capsys.readouterr().err
    assert run(prepare, ["folder", folder, f"--captions={name}", f"--out={out}"]) == 0
    assert captions_of(out) == [
        [f"picture {n}, seen {k} times" for k in range(2)] for n in range(3)
    ]


def test_splits_of_karpathys_file_and_other_jsons(tmp_path, out, capsys):
    folder = pictures(tmp_path / "in", 3)
    (folder / "dataset.json").write_text(_karpathy(3))
    command = ["folder", folder, f"--out={out}"]
    assert run(prepare, [*command, "--captions=dataset.json", "--split=test"]) == 2
    assert "'restval': 1" in capsys.readouterr().err
    assert run(prepare, [*command, "--split=train"]) == 2
    assert "give that file as --captions=FILE.json" in capsys.readouterr().err
    (folder / "list.json").write_text('[{"file_name": "0.jpg", "text": "a"}]')
    assert run(prepare, [*command, "--captions=list.json", "--split=train"]) == 2
    assert "only Karpathy's JSON has them" in capsys.readouterr().err
    assert run(prepare, [*command, "--captions=dataset.json", "--split=train"]) == 0
    assert len(captions_of(out)) == 2
    assert "1 picture that dataset.json does not name" in capsys.readouterr().out
    others = {"{}": "expected COCO's captions", "[": "cannot be read as JSON"}
    others['{"images": [], "annotations": [{"category_id": 1}]}'] = "without captions"
    for content, words in others.items():
        (folder / "other.json").write_text(content)
        assert run(prepare, [*command, "--captions=other.json", "--overwrite"]) == 2
        assert words in capsys.readouterr().err


def test_parquet_with_paths_and_names_of_classes(tmp_path, out):
    pictures(tmp_path / "images", 3)
    features = {"label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = {
        "image": [{"bytes": None, "path": f"images/{n}.jpg"} for n in range(3)],
        "text": [f"picture {n}" for n in range(3)],
        "label": [0, 1, 0],
    }
    table = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "a.parquet")
    assert run(prepare, ["parquet", tmp_path / "a.parquet", f"--out={out}"]) == 0
    assert captions_of(out) == numbered(3)
    assert open_source(str(out)).sources[0].labels == ("ant", "zebra")
    assert [f["label"] for f in features_of(out)] == [[1], [0], [1]]


@pytest.mark.parametrize(
    "source", ["{in}/{00000..00002}.tar", "{in}", "{in}/*.tar", "{in}/0000{0,1,2}.tar"]
)
def test_tars_named_as_shells_name_them(tmp_path, out, source):
    for shard in range(3):
        members = [(f"{shard}{n}.jpg", picture(n)) for n in range(2)]
        members += [(f"{shard}{n}.txt", f"picture {n}".encode()) for n in range(2)]
        tar(tmp_path / "in" / f"{shard:05d}.tar", sorted(members))
    (tmp_path / "in" / "README.md").write_text("x")
    assert (
        run(prepare, ["webdataset", source.replace("{in}", f"{tmp_path}/in"), f"--out={out}"]) == 0
    )
    assert captions_of(out) == numbered(2) * 3


def test_endings_of_pictures_in_any_case(tmp_path, out):
    for number, (ending, kind) in enumerate(
        [("JPG", "JPEG"), ("jfif", "JPEG"), ("TIFF", "TIFF"), ("tif", "TIFF"), ("AVIF", "AVIF")]
    ):
        (tmp_path / f"{number}.{ending}").write_bytes(picture(number, kind))
        (tmp_path / f"{number}.txt").write_text(f"picture {number}")
    (tmp_path / "x.svg").write_text("<svg/>")
    assert run(prepare, ["folder", tmp_path, f"--out={out}"]) == 0
    assert captions_of(out) == numbered(5)


def test_img2dataset_files_and_a_field_by_name(tmp_path, out):
    for n in range(2):
        (tmp_path / f"{n}.jpg").write_bytes(picture(n))
        fields = {"caption": "alt", "long": f"picture {n}", "cls": "cat", "noise": "none"}
        (tmp_path / f"{n}.json").write_text(json.dumps(fields))
    assert run(prepare, ["folder", tmp_path, "--caption_column=long", f"--out={out}"]) == 0
    assert captions_of(out) == numbered(2)
    assert [(f["cls"], f["noise"]) for f in features_of(out)] == [(["cat"], ["none"])] * 2


def test_a_text_beside_a_picture_does_not_replace_a_field_by_name(tmp_path, out):
    for n in range(2):
        (tmp_path / f"{n}.jpg").write_bytes(picture(n))
        (tmp_path / f"{n}.txt").write_text("another caption")
    (tmp_path / "0.json").write_text('{"alt": "picture 0"}')
    assert run(prepare, ["folder", tmp_path, "--caption_column=alt", f"--out={out}"]) == 0
    assert captions_of(out) == [["picture 0"]] and rejected_of(out) == {"1.jpg": "no caption"}


def test_names_as_other_systems_write_them(tmp_path, out):
    folder = pictures(tmp_path / "in" / "sub", 1).parent
    (folder / "caf\u00e9.jpg").write_bytes(picture(1))
    (folder / "Stra\u00dfe e\u0301.jpg").write_bytes(picture(2))
    rows = "sub\\0.jpg,picture 0\n.\\cafe\u0301.jpg,picture 1\nStra\u00dfe \u00e9.jpg,picture 2\n"
    (folder / "captions.txt").write_text("image,caption\n" + rows)
    assert run(prepare, ["folder", folder, f"--out={out}"]) == 0
    assert sorted(captions_of(out)) == numbered(3)
    assert ["caf\u00e9.jpg"] in [f["key"] for f in features_of(out)]
    assert run(prepare, ["folder", folder, f"--out={folder}"]) == 2


def test_a_blank_text_does_not_hide_the_caption_of_a_json(tmp_path, out):
    members = [("0.jpg", picture()), ("0.txt", b" \n"), ("0.json", b'{"caption": "a dog"}')]
    members += [("1.jpg", picture()), ("1.json", b'{"caption": "b", "label": ["x", "y"]}')]
    path = tar(tmp_path / "0.tar", [(f"./{name}", content) for name, content in members])
    assert run(prepare, ["webdataset", path, f"--out={out}"]) == 0
    assert [(f["key"], f["captions"]) for f in features_of(out)] == [
        (["0.tar:0"], ["a dog"]), (["0.tar:1"], ["b"]),
    ]  # fmt: skip


def test_addresses_are_not_fetched(tmp_path, out, capsys):
    table = pa.table({"URL": ["https://example.com/0.jpg"], "TEXT": ["a dog"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert run(prepare, ["parquet", tmp_path / "a.parquet", f"--out={out}"]) == 2
    assert "download the pictures first" in capsys.readouterr().err


# -- keys and ids --------------------------------------------------------------------------------


def test_ids_depend_on_the_path_below_the_source(tmp_path, out):
    for split in ("extra", "train"):
        image = [{"bytes": picture(n), "path": None} for n in range(4)]
        (tmp_path / split).mkdir()
        table = pa.table({"image": image, "text": [f"{split} {n}" for n in range(4)]})
        pq.write_table(table, tmp_path / split / "0000.parquet")
        members = [("0.jpg", picture(1)), ("0.txt", b"picture")]
        tar(tmp_path / split / "0.tar", members)
    assert run(prepare, ["parquet", f"{tmp_path}/*/0000.parquet", f"--out={out}"]) == 0
    assert len({f["id"][0] for f in features_of(out)}) == 8
    assert run(prepare, ["webdataset", f"{tmp_path}/*/0.tar", f"--out={out}2"]) == 0
    assert [f["key"] for f in features_of(f"{out}2")] == [["extra/0.tar:0"], ["train/0.tar:0"]]


def test_two_folders_have_other_names_and_ids(tmp_path):
    ids = []
    for name in ("a", "b"):
        folder = pictures(tmp_path / name, 3)
        (folder / "captions.csv").write_text(csv_of(3))
        assert run(prepare, ["folder", folder, f"--out={tmp_path}/data/{name}"]) == 0
        ids += [f["id"][0] for f in features_of(tmp_path / "data" / name)]
    assert len(set(ids)) == 6
    mixed = open_source(f"{tmp_path}/data/a,{tmp_path}/data/b")
    assert [source.name for source in mixed.sources] == ["a", "b"]


def test_a_moved_source_has_the_ids_it_had(tmp_path, out, monkeypatch):
    folder = pictures(tmp_path / "a", 3)
    (folder / "captions.csv").write_text(csv_of(3))
    assert run(prepare, ["folder", folder, f"--out={out}"]) == 0
    (tmp_path / "elsewhere").mkdir()
    folder.rename(tmp_path / "elsewhere" / "a")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run(prepare, ["folder", "./a/", f"--out={out}"]) == 0


def test_keys_with_dots(tmp_path, out):
    members = [
        member
        for n in range(3)
        for member in ((f"v1.{n}.jpg", picture(n)), (f"v1.{n}.txt", f"picture {n}".encode()))
    ]
    odd = [("w.seg.md", b"x"), ("w.txt", b"x")]
    assert run(prepare, ["webdataset", tar(tmp_path / "0.tar", members + odd), f"--out={out}"]) == 0
    assert captions_of(out) == numbered(3)
    assert "a key ends at the first dot of a name" in rejected_of(out)["0.tar:w"]


def test_names_that_are_not_utf8(tmp_path, out):
    name = os.fsencode(tmp_path) + b"/caf\xe9"
    for ending, content in ((b".jpg", picture()), (b".txt", b"a picture")):
        with open(name + ending, "wb") as file:
            file.write(content)
    assert run(prepare, ["folder", tmp_path, f"--out={out}"]) == 0
    assert features_of(out)[0]["key"] == ["caf\udce9.jpg"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_members_of_a_key_that_are_not_adjacent(tmp_path, out, capsys, mode):
    members = [(f"{n:02d}.jpg", picture(n)) for n in range(12)]
    members += [(f"{n:02d}.txt", f"picture {n}".encode()) for n in range(12)]
    path = tar(tmp_path / "0.tar", members, mode)
    if mode == "w":
        assert run(prepare, ["webdataset", path, f"--out={out}"]) == 0
        assert captions_of(out) == numbered(12)
        return
    assert run(prepare, ["webdataset", path, f"--out={out}"]) == 2
    told = capsys.readouterr().err
    assert "tar --sort=name" in told and "12 x no caption" in told
    assert not (out / "manifest.json").exists()


# -- running twice -------------------------------------------------------------------------------


def test_a_source_that_changed_is_told_and_can_be_prepared_again(tmp_path, out, capsys):
    folder = pictures(tmp_path / "in", 6)
    (folder / "captions.csv").write_text(csv_of(6).replace("picture 2", " "))
    command = ["folder", folder, f"--out={out}"]
    assert run(prepare, command) == 0
    (folder / "captions.csv").write_text(csv_of(7))
    (folder / "6.jpg").write_bytes(picture(6))
    (folder / "0.jpg").unlink()
    assert run(prepare, command) == 2
    told = capsys.readouterr().err
    assert "1 files changed: captions.csv" in told and "1 files new: 6.jpg" in told
    assert "1 files gone: 0.jpg" in told and "--overwrite" in told
    assert run(prepare, [*command, "--overwrite"]) == 0
    assert captions_of(out) == numbered(7)[1:]


def test_other_settings_are_told(tmp_path, out, capsys):
    pictures(tmp_path, 2)
    (tmp_path / "t.csv").write_text("filepath,a,b\n0.jpg,1,x\n1.jpg,2,y\n")
    command = ["csv", tmp_path / "t.csv", f"--out={out}"]
    assert run(prepare, [*command, "--caption_column=a"]) == 0
    assert run(prepare, [*command, "--caption_column=b", "--name=other", "--separator=,"]) == 2
    told = capsys.readouterr().err
    for words in ("caption_column: 'a' then, 'b' now", "name: ", "separator: None then"):
        assert words in told


def test_places_that_cannot_be_read_or_written(tmp_path, out, capsys, monkeypatch):
    folder = pictures(tmp_path / "in", 2)
    (folder / "mine.csv").write_text(csv_of(2))
    assert run(prepare, ["folder", folder, "--captions=no.csv", f"--out={out}"]) == 2
    assert f"{folder}/no.csv" in capsys.readouterr().err
    assert run(prepare, ["folder", folder, f"--out={folder}/mine.csv"]) == 2
    assert "cannot be made a folder" in capsys.readouterr().err

    class FullDisk(tf.io.TFRecordWriter):
        def write(self, record):
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    command = ["folder", folder, "--captions=mine.csv", f"--out={out}"]
    with monkeypatch.context() as patch:
        patch.setattr(tf.io, "TFRecordWriter", FullDisk)
        assert run(prepare, command) == 2
    told = capsys.readouterr().err
    assert "No space left on device" in told and "the same command goes on" in told

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", f"{out}/unit")

    with monkeypatch.context() as patch:
        patch.setattr(prepared, "write_report", full)
        assert run(prepare, command) == 2
    assert run(prepare, command) == 0 and captions_of(out) == numbered(2)


def test_an_interrupted_run_says_what_is_kept(tmp_path, out, capsys, monkeypatch):
    folder = pictures(tmp_path / "in", 4)
    (folder / "captions.csv").write_text(csv_of(4))
    convert = library.convert

    def interrupted(unit, index, *rest):
        if index == 3:
            raise KeyboardInterrupt
        return convert(unit, index, *rest)

    command = ["folder", folder, f"--out={out}", "--records_per_shard=1", "--workers=1"]
    with monkeypatch.context() as patch:
        patch.setattr(library, "convert", interrupted)
        assert run(prepare, command) == 130
    assert " of 4 units are done and kept" in capsys.readouterr().out
    assert run(prepare, command) == 0 and captions_of(out) == numbered(4)


def test_nothing_rejected_leaves_no_list_and_names_none(tmp_path, out, capsys):
    folder = pictures(tmp_path / "in", 2)
    (folder / "captions.csv").write_text(csv_of(2))
    assert run(prepare, ["folder", folder, f"--out={out}"]) == 0
    assert "rejected.jsonl" not in capsys.readouterr().out
    assert not (out / "rejected.jsonl").exists()


def test_captions_that_cannot_be_seen_are_rejected_and_counted(tmp_path, out, capsys):
    folder = pictures(tmp_path / "in", 4)
    texts = ["picture 0", "\u200b", "\ufeff \u2060", "picture 3"]
    rows = [
        f"{n}.jpg,{text},{label}\n"
        for n, text, label in zip(range(4), texts, "ab\u200bd", strict=True)
    ]
    (folder / "captions.csv").write_text("file,caption,label\n" + "".join(rows))
    assert run(prepare, ["csv", folder / "captions.csv", f"--out={out}"]) == 0
    assert captions_of(out) == [["picture 0"], ["b"], ["picture 3"]]  # the name of its class
    assert rejected_of(out) == {"2.jpg": "no caption"}
    assert "2 captions empty" in capsys.readouterr().out
    assert open_source(str(out)).sources[0].labels == ("a", "b", "d")


def test_a_missing_picture_of_a_table_says_where_it_was_looked_for(tmp_path, out):
    folder = pictures(tmp_path / "in", 2)
    rows = "gone.jpg,x\nC:\\pics\\1.jpg,x\n\\\\nas\\pics\\1.jpg,x\n"
    (folder / "t.csv").write_text(csv_of(2) + rows)
    command = [folder / "t.csv", f"--out={out}", "--max_rejected=1"]
    assert run(prepare, ["csv", *command]) == 0
    told = rejected_of(out)
    assert told.pop("gone.jpg").endswith(f"No such file or directory, looked for {folder}/gone.jpg")
    told = list(told.values())
    assert told == [f"a path of Windows: write it relative to {folder}"] * 2
    (folder / "captions.csv").write_text(csv_of(2) + rows)
    command = ["folder", folder, f"--out={out}2", "--max_rejected=1"]
    assert run(prepare, command) == 0
    assert list(rejected_of(out.parent / "out2").values()).count(told[0]) == 2


def test_flags_that_a_kind_does_not_read_are_refused(tmp_path, out, capsys):
    for kind, flag in (
        ("csv", "split=train"),
        ("webdataset", "noquotes"),
        ("parquet", "captions=x"),
    ):
        assert run(prepare, [kind, tmp_path, f"--out={out}", f"--{flag}"]) == 2
        told = capsys.readouterr().err
        assert "is for the kind folder" in told and f"{kind} does not read it" in told
    assert not out.exists()


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_repeated_members_of_a_tar_are_counted(tmp_path, out, capsys, name):
    members = [("0.jpg", picture(0)), ("0.txt", b"old"), ("0.jpg", picture(0)), ("0.txt", b"new")]
    path = tar(tmp_path / name, members, "w:gz" if name.endswith("gz") else "w")
    assert run(prepare, ["webdataset", path, f"--out={out}"]) == 0
    assert captions_of(out) == [["new"]]
    assert "2 member of a tar that a later one of its name replaces" in capsys.readouterr().out


def test_a_header_that_is_missing_or_names_two_columns_alike_is_refused(tmp_path, out, capsys):
    pictures(tmp_path, 2)
    (tmp_path / "t.csv").write_text("0.jpg,a\n1.jpg,b\n")
    assert run(prepare, ["csv", tmp_path / "t.csv", f"--out={out}"]) == 2
    assert "its first line is a row: 0.jpg, a." in capsys.readouterr().err
    (tmp_path / "t.csv").write_text("file,caption,caption\n0.jpg,a,b\n1.jpg,a,b\n")
    assert run(prepare, ["csv", tmp_path / "t.csv", f"--out={out}"]) == 2
    assert "2 columns are called 'caption'" in capsys.readouterr().err
    columns = [pa.array(["0.jpg"]), pa.array(["a"]), pa.array(["b"])]
    rows = pa.Table.from_arrays(columns, names=["image", "text", "text"])
    pq.write_table(rows, tmp_path / "t.parquet")
    assert run(prepare, ["parquet", tmp_path / "t.parquet", f"--out={out}2"]) == 2
    assert "2 columns are called 'text'" in capsys.readouterr().err


def test_one_column_is_not_both_picture_and_caption(tmp_path, out, capsys):
    pictures(tmp_path, 2)
    (tmp_path / "t.csv").write_text("file,caption\n0.jpg,a\n1.jpg,b\n")
    pq.write_table(pa.table({"image": [picture(0)], "text": ["a"]}), tmp_path / "t.parquet")
    for kind, path, column in (("csv", "t.csv", "file"), ("parquet", "t.parquet", "image")):
        command = [kind, tmp_path / path, f"--caption_column={column}", f"--out={out}"]
        assert run(prepare, command) == 2
        assert f"column {column!r} cannot be both" in capsys.readouterr().err


def test_texts_of_windows_are_read_and_tables_refused(tmp_path, out, capsys):
    folder = pictures(tmp_path / "in", 2)
    (folder / "0.txt").write_bytes("ein Bär\nzwei Bären".encode("utf-16"))
    (folder / "1.txt").write_bytes(BOM + "drei Bären".encode())
    assert run(prepare, ["folder", folder, f"--out={out}"]) == 0
    assert captions_of(out) == [["ein Bär", "zwei Bären"], ["drei Bären"]]
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        (folder / "t.csv").write_bytes(csv_of(2).encode(encoding))
        assert run(prepare, ["csv", folder / "t.csv", f"--out={out}2"]) == 2
        assert "save it as UTF-8" in capsys.readouterr().err


def test_another_set_in_the_output_is_left_alone(tmp_path, out, capsys):
    folder = pictures(tmp_path / "in", 2)
    (folder / "captions.csv").write_text(csv_of(2))
    out.mkdir()
    (out / "manifest.json").write_text("of another program")
    command = ["folder", folder, f"--out={out}"]
    assert run(prepare, command) == 2
    assert "manifest.json of another run or program" in capsys.readouterr().err
    assert (out / "manifest.json").read_text() == "of another program"
    assert run(prepare, [*command, "--overwrite"]) == 0
    tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")).close()
    before = (out / "manifest.json").read_text()
    assert run(prepare, ["img2dataset", tmp_path / "a.tfrecord", f"--out={out}"]) == 2
    assert "holds a set of another kind" in capsys.readouterr().err
    with pytest.raises(UserError, match="of another data set"):
        subset.write_manifest(open_source(str(out)), np.ones(2, bool), str(out), "part")
    assert (out / "manifest.json").read_text() == before and open_source(str(out)).n_records == 2


def test_more_than_half_rejected_is_an_error(tmp_path, out, capsys):
    folder = pictures(tmp_path / "in", 2)
    (folder / "captions.csv").write_text(csv_of(5))
    command = ["folder", folder, f"--out={out}"]
    assert run(prepare, command) == 2
    assert "3 of 5 records were rejected" in (told := capsys.readouterr().err)
    assert "3 x cannot be read: No such file or directory (first: 2.jpg)" in told
    assert f"{out} holds what was prepared so far" in told and "--overwrite" in told
    assert not (out / "manifest.json").exists()
    assert run(prepare, [*command, "--max_rejected=0.6"]) == 0
    assert captions_of(out) == numbered(2)


# -- security ------------------------------------------------------------------------------------


def test_pictures_outside_of_the_folder_are_not_read(tmp_path, out):
    private = tmp_path / "private.jpg"
    private.write_bytes(picture(9))
    secret = tmp_path / "secret.txt"
    secret.write_text("TOP SECRET")
    folder = pictures(tmp_path / "in", 3)
    (folder / "link.jpg").symlink_to(private)
    (folder / "sub").mkdir()
    (folder / "sub" / "up.jpg").symlink_to("../../secret.txt")
    names = ["../private.jpg", str(private), "gs://bucket/x.jpg", "sub/../../private.jpg"]
    names += ["link.jpg", "sub/up.jpg", str(secret), f"{folder}/2.jpg", "sub/../1.jpg", "0.jpg"]
    rows = [{"file_name": name, "text": "picture"} for name in names]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["folder", folder, f"--out={out}", "--max_rejected=0.9"]
    assert run(prepare, command) == 0
    assert [f["key"][0] for f in features_of(out)] == ["0.jpg", "1.jpg", "2.jpg"]
    reasons = rejected_of(out)
    assert len(reasons) == 7 and all("--allow_outside" in reason for reason in reasons.values())
    for path in out.iterdir():
        assert b"SECRET" not in path.read_bytes() and picture(9) not in path.read_bytes()
    allowed = ["folder", folder, f"--out={out}2", "--max_rejected=0.9", "--allow_outside"]
    assert run(prepare, allowed) == 0
    assert str(private) in [f["key"][0] for f in features_of(f"{out}2")]
    assert not any("SECRET" in reason for reason in rejected_of(f"{out}2").values())


def test_tables_and_parquet_stay_inside_too(tmp_path, out):
    (tmp_path / "private.jpg").write_bytes(picture(9))
    folder = pictures(tmp_path / "in", 2)
    (folder / "t.csv").write_text("filepath,title\n../private.jpg,x\n0.jpg,picture 0\n1.jpg,b\n")
    columns = {"image": ["../private.jpg", "0.jpg", "1.jpg"], "text": ["x", "picture 0", "b"]}
    pq.write_table(pa.table(columns), folder / "t.parquet")
    for kind in ("csv", "parquet"):
        assert run(prepare, [kind, f"{folder}/t.{kind}", f"--out={out}/{kind}"]) == 0
        assert captions_of(out / kind) == [["picture 0"], ["b"]]
        assert "--allow_outside" in next(iter(rejected_of(out / kind).values()))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_members_of_one_key_do_not_add_up_in_memory(tmp_path, out, monkeypatch, mode):
    from jest_tf.data.formats import tar as tars

    monkeypatch.setattr(tars.files, "MAX_FILE_BYTES", 50_000)
    bomb = [(f"x.{n}.jpg", bytes(9_000)) for n in range(100)] + [(f"x.{n}", b"0") for n in range(9)]
    good = [("y.jpg", picture()), ("y.txt", b"a picture")]
    read = []
    extract = tars.tarfile.TarFile.extractfile
    monkeypatch.setattr(
        tars.tarfile.TarFile,
        "extractfile",
        lambda self, member: read.append(member.size) or extract(self, member),
    )
    path = tar(tmp_path / "0.tar", bomb + good, mode)
    assert run(prepare, ["webdataset", path, f"--out={out}", "--max_rejected=1"]) == 0
    assert captions_of(out) == [["a picture"]]
    assert sum(read) < 60_000


# -- classes -------------------------------------------------------------------------------------


def _as_folder(root):
    for name in ("cat", "ant"):
        pictures(root / name, 2)
    return ["folder", root, "--classes_from_folders"]


def _as_table(root):
    pictures(root, 4)
    rows = "".join(f"{n}.jpg,,{'cat' if n % 2 else 'ant'}\n" for n in range(4))
    (root / "t.csv").write_text("filepath,title,cls\n" + rows)
    return ["csv", root / "t.csv"]


def _as_metadata(root):
    pictures(root, 4)
    rows = [{"file_name": f"{n}.jpg", "kind": ["ant", "cat"][n % 2]} for n in range(4)]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ["folder", root, "--label_column=kind"]


def _as_tar(root):
    members = []
    for n in range(4):
        members += [(f"{n}.cls", [b"ant", b"cat"][n % 2]), (f"{n}.jpg", picture(n))]
    return ["webdataset", tar(root / "0.tar", members)]


def _as_texts(root):
    pictures(root, 4)
    for n in range(4):
        (root / f"{n}.cls").write_text(["ant\n", "cat\n"][n % 2])
    return ["folder", root]


@pytest.mark.parametrize("source", [_as_folder, _as_table, _as_metadata, _as_tar, _as_texts])
def test_classes_in_every_format(tmp_path, out, source):
    command = [*source(tmp_path / "in"), f"--out={out}", "--records_per_shard=1"]
    assert run(prepare, command) == 0
    manifest = open_source(str(out))
    assert manifest.sources[0].labels == ("ant", "cat") and manifest.sources[0].label == "label"
    for features in features_of(out):
        assert features["cls"] == features["captions"] == [("ant", "cat")[features["label"][0]]]
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    assert run(prepare, command) == 0
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_classes_that_are_numbers_are_in_their_order(tmp_path, out):
    pictures(tmp_path, 3)
    (tmp_path / "t.csv").write_text("filepath,title,label\n0.jpg,a,10\n1.jpg,b,9\n2.jpg,c,\n")
    assert run(prepare, ["csv", tmp_path / "t.csv", f"--out={out}"]) == 0
    assert open_source(str(out)).sources[0].labels == ("9", "10")
    assert [f.get("label") for f in features_of(out)] == [[1], [0], None]


# -- long sources --------------------------------------------------------------------------------


def test_repeats_are_counted_the_same_in_memory_and_in_files():
    from jest_tf.data.sorted_runs import SortedRuns

    numbers = np.random.default_rng(0).integers(-50, 2**62, 5000)
    numbers = np.concatenate([numbers, numbers[:700], numbers[:50]])
    for held in (100, 10_000):
        repeats = SortedRuns(held)
        for part in np.split(numbers, 50):
            repeats.add(part)
        assert repeats.n_repeated() == 750
    assert SortedRuns().n_repeated() == 0
