"""Manifests on disk, sources by name, mixtures."""

import json

import pytest

from jest_tf.data import sources
from jest_tf.data.manifest import About, Manifest, Shard, Source, mix
from jest_tf.errors import UserError


def test_a_manifest_moves_with_its_folder(make_manifest, tmp_path):
    manifest = make_manifest([3, 4])
    manifest.save(str(tmp_path / "manifest.json"))
    moved = tmp_path.parent / (tmp_path.name + "-moved")
    tmp_path.rename(moved)
    loaded = sources.open_source(str(moved))
    assert loaded.n_records == 7 and loaded.fingerprint == manifest.fingerprint
    assert loaded.shards[1].path == str(moved / "numbers-00001.tfrecord")
    assert loaded.locate(5) == (loaded.shards[1].path, 2)
    moved.rename(tmp_path)


def test_relative_paths_are_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    about = About(labels=("sets/labels.jsonl",))
    Manifest("m", (Source("a"),), (Shard("sets/a.tfrecord", 3),), about).save("other/m.json")
    loaded = Manifest.load("other/m.json")
    assert loaded.shards[0].path == str(tmp_path / "sets" / "a.tfrecord")
    assert loaded.about.labels == (str(tmp_path / "sets" / "labels.jsonl"),)


def test_an_edited_manifest_is_refused(make_manifest, tmp_path):
    path = tmp_path / "manifest.json"
    make_manifest([3, 4]).save(str(path))
    content = json.loads(path.read_text())
    content["shards"][0]["records"] = 2
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="fingerprint"):
        Manifest.load(str(path))
    path.write_text("{}")
    with pytest.raises(UserError, match="not a manifest .*jest_tf.prepare"):
        Manifest.load(str(path))


def test_the_fingerprint_sees_content_and_order_but_not_the_place():
    def make(*shards, source="a"):
        return Manifest("m", (Source(source),), tuple(Shard(*s) for s in shards)).fingerprint

    base = make(("/x/a", 3), ("/x/b", 4))
    assert base == make(("gs://y/a", 3), ("gs://y/b", 4))
    assert (
        len(
            {
                base,
                make(("/x/b", 4), ("/x/a", 3)),
                make(("/x/a", 3)),
                make(("/x/a", 3), ("/x/b", 5)),
            }
        )
        == 4
    )
    assert base != make(("/x/a", 3), ("/x/b", 4), source="other")


def test_mixtures_by_name(make_manifest, tmp_path):
    for name, sizes in (("a", [5, 5]), ("b", [2])):
        make_manifest(sizes, name=name).save(str(tmp_path / f"{name}.json"))
    both = sources.open_source(f"{tmp_path}/a.json@3,{tmp_path}/b.json@1")
    assert [s.weight for s in both.sources] == [3, 1]
    assert [s.source for s in both.shards] == [0, 0, 1]
    plain = sources.open_source(f"{tmp_path}/a.json,{tmp_path}/b.json")
    assert [s.weight for s in plain.sources] == [None, None] and plain.n_records == 12
    with pytest.raises(UserError, match="every part"):
        sources.open_source(f"{tmp_path}/a.json@3,{tmp_path}/b.json")
    with pytest.raises(UserError, match="could not convert"):
        sources.open_source(f"{tmp_path}/a.json@much,{tmp_path}/b.json@1")


def test_sources_that_cannot_be_used_are_named(make_manifest, tmp_path):
    with pytest.raises(UserError, match="prepare"):
        sources.open_source(str(tmp_path / "nothing.json"))
    with pytest.raises(UserError, match="no_such_builder"):
        sources.open_source("tfds:no_such_builder:train", str(tmp_path))
    with pytest.raises(UserError, match="'empty' holds no record"):
        Manifest("m", (Source("full"), Source("empty")), (Shard("/x", 3),))
    with pytest.raises(UserError, match="weight -1"):
        mix([make_manifest([3], name="w"), make_manifest([3], name="x")], [2, -1], "m")
    with pytest.raises(UserError, match="caption"):
        Manifest("m", (Source("a", captions=None),), (Shard("/x", 3),))


def test_held_out_and_all_but_are_the_two_parts_of_a_manifest(make_manifest, tmp_path):
    make_manifest([20, 10, 1]).save(str(tmp_path / "a.json"))
    train = sources.open_source(f"{tmp_path}/a.json#all_but=0.1")
    held_out = sources.open_source(f"{tmp_path}/a.json#held_out=0.1")
    assert [(s.start, s.records) for s in train.shards] == [(0, 18), (0, 9), (0, 1)]
    assert [(s.start, s.records) for s in held_out.shards] == [(18, 2), (9, 1)]
    assert train.fingerprint != held_out.fingerprint
    few = sources.open_source(f"{tmp_path}/a.json#held_out=0.001")
    assert few.n_records == 1


def test_one_record_cannot_be_split(make_manifest, tmp_path):
    make_manifest([1]).save(str(tmp_path / "a.json"))
    with pytest.raises(UserError, match="cannot be split"):
        sources.open_source(f"{tmp_path}/a.json#held_out=0.5")
