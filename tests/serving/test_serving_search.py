"""Exact search against a full sort, and an index that survives additions and interruptions."""

import json

import numpy as np
import pytest

from jest_tf.errors import UserError
from jest_tf.serving.image_index import ImageIndex, Item
from jest_tf.serving.querying import ExactSearch

MODEL = {"path": "export", "fingerprint": "abc"}


def unit(rng, n, d):
    z = rng.standard_normal((n, d)).astype(np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def test_search_equals_a_full_sort():
    rng = np.random.default_rng(0)
    # Small integers: the scores are exact and many are equal, so the tie rule is tested too.
    rows = rng.integers(-2, 3, (53, 4)).astype(np.float32)
    queries = rng.integers(-2, 3, (70, 4)).astype(np.float32)  # more than go at once
    truth = np.argsort(-(queries @ rows.T), axis=1, kind="stable")
    search = ExactSearch(rows)
    for k in (1, 10, 60):
        scores, found = search(queries, k)
        np.testing.assert_array_equal(found, truth[:, :k])
        np.testing.assert_array_equal(scores, np.take_along_axis(queries @ rows.T, found, 1))


def items(*names, version="1"):
    return [Item(id=name, version=version) for name in names]


def test_rows_survive_reopening_and_are_a_plain_array(tmp_path):
    rng = np.random.default_rng(1)
    z = unit(rng, 5, 3)
    index = ImageIndex.create(tmp_path / "i", 3, MODEL)
    index.add(items("a", "b"), z[:2])
    index = ImageIndex.open(tmp_path / "i")
    index.drop_uncommitted()
    index.add(items("c", "d", "é"), z[2:])
    np.testing.assert_array_equal(np.load(tmp_path / "i" / "embeddings.npy"), z)
    index = ImageIndex.open(tmp_path / "i")
    np.testing.assert_array_equal(index.embeddings(), z)
    assert [item.id for item in index.items] == ["a", "b", "c", "d", "é"]


def test_a_new_version_replaces_its_row(tmp_path):
    z = unit(np.random.default_rng(2), 4, 3)
    index = ImageIndex.create(tmp_path / "i", 3, MODEL)
    index.add(items("a", "b", "c"), z[:3])
    changed = items("b", version="2")[0]
    assert index.is_current(items("a")[0]) and not index.is_current(changed)
    index.add([changed], z[3:])
    index = ImageIndex.open(tmp_path / "i")
    np.testing.assert_array_equal(index.embeddings(), z[[0, 3, 2]])
    assert [item.version for item in index.items] == ["1", "2", "1"]


def test_what_an_interrupted_run_left_is_ignored_and_overwritten(tmp_path):
    z = unit(np.random.default_rng(3), 4, 3)
    index = ImageIndex.create(tmp_path / "i", 3, MODEL)
    index.add(items("a", "b"), z[:2])
    with open(tmp_path / "i" / "items.jsonl", "ab") as file:
        file.write(b'{"id": "half a li')
    with open(tmp_path / "i" / "embeddings.npy", "ab") as file:
        file.write(b"12345")
    index = ImageIndex.open(tmp_path / "i")
    assert len(index) == 2
    index.drop_uncommitted()
    index.add(items("c", "d"), z[2:])
    np.testing.assert_array_equal(ImageIndex.open(tmp_path / "i").embeddings(), z)
    np.testing.assert_array_equal(np.load(tmp_path / "i" / "embeddings.npy"), z)


def test_thumbnails_come_back(tmp_path):
    index = ImageIndex.create(tmp_path / "i", 2, MODEL)
    index.add(items("x#0", "x#1"), np.eye(2, dtype=np.float32), [b"first", b"second"])
    index = ImageIndex.open(tmp_path / "i")
    assert [index.thumbnail(item) for item in index.items] == [b"first", b"second"]


@pytest.mark.parametrize(
    "meta",
    [{"d": 0}, {"d": 3}, {"d": "2"}, {"n": "2"}, {"model": {}}, {"model": 1}],
)
def test_a_changed_description_is_damage_and_no_other_numbers(tmp_path, meta):
    ImageIndex.create(tmp_path / "i", 2, MODEL).add(items("a", "b"), np.eye(2, dtype=np.float32))
    path = tmp_path / "i" / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | meta))
    with pytest.raises(UserError, match="damaged: .* Delete the folder and index again"):
        ImageIndex.open(tmp_path / "i").embeddings()


def test_other_arrays_and_lost_thumbnails(tmp_path):
    index = ImageIndex.create(tmp_path / "i", 2, MODEL)
    index.add(items("x#0"), np.ones((1, 2), np.float32), [b"jpeg"])
    (tmp_path / "i" / "thumbnails.bin").unlink()
    assert index.thumbnail(index.items[0]) == b""
    np.save(tmp_path / "i" / "embeddings.npy", np.ones((1, 2)))
    with pytest.raises(UserError, match=r"holds float64 \[1, 2\]; expected float32 \[1, 2\]"):
        ImageIndex.open(tmp_path / "i").embeddings()


def test_wrong_folders_and_models_are_refused(tmp_path):
    with pytest.raises(UserError, match="no image index"):
        ImageIndex.open(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        ImageIndex.create(tmp_path, 2, MODEL)
    index = ImageIndex.create(tmp_path / "i", 2, MODEL)
    index.require_model("abc", "export")
    with pytest.raises(UserError, match="built by another model: export with fingerprint abc"):
        index.require_model("xyz", "other")
    meta = json.loads((tmp_path / "i" / "meta.json").read_text())
    (tmp_path / "i" / "meta.json").write_text(json.dumps(meta | {"n": 7}))
    with pytest.raises(UserError, match="damaged"):
        ImageIndex.open(tmp_path / "i")
