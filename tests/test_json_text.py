"""JSON of others: too deep is wrong, as cut is wrong."""

import pathlib
import re

import pytest

from jest_tf.data.formats import folder, tar
from jest_tf.data.formats.pairs import Columns, Rejected, Settings
from jest_tf.data.manifest import Manifest
from jest_tf.errors import UserError
from jest_tf.files import parse_json

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "jest_tf"
DEEP = '{"a":' + "[" * 100_000
# They read what the same command has just written, or what is shipped.
TRUSTED = {"files.py", "preflight/compiling.py"}


def test_sound_text_is_what_json_gives():
    assert parse_json('{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
    assert parse_json(b"[]") == []


@pytest.mark.parametrize("text", [DEEP, '{"a": 1', "", "NaN]"])
def test_anything_else_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_deep_files_are_refused_by_name(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(DEEP)
    with pytest.raises(UserError, match=r"manifest\.json"):
        Manifest.load(str(path))
    captions = tmp_path / "captions.jsonl"
    captions.write_text(DEEP + "\n")
    settings = Settings("folder", (str(tmp_path),), "no/output", captions=str(captions))
    (unit,) = folder.open_folder(settings).units
    (record,) = unit.read()
    assert "nested too deeply" in record.reason
    parts = {"png": b"x", "json": DEEP.encode()}
    assert isinstance(tar.pair_of("k", parts, bytes, Columns()), Rejected)


def test_files_of_others_are_read_in_one_way():
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if name in TRUSTED or name.startswith("bench/"):
            continue
        found = re.findall(r"json\.loads?\((?!json\.dumps|self\._json)", path.read_text())
        assert not found, f"{name} reads JSON without jest_tf.files"
