"""The doctor finds what was planted, and training agrees on what is bad."""

import json

import pytest
from small_shards import example, png, write_shard

from jest_tf.data import doctor, pipeline
from jest_tf.data.manifest import Manifest, Shard, Source
from jest_tf.errors import UserError


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    records = [example(id=n, image=png(n), captions=f"record {n}") for n in range(40)]
    records[3] = example(id=3, image=b"<html>", captions="record 3")
    records[4] = example(id=4, image=png(4)[:50], captions="record 4")
    records[5] = example(id=5, image=png(5), captions=" ")
    records[6] = example(id=7, image=png(6), captions="record 7")  # id and caption of the next
    records[8] = b"\xff\xffno example"
    records[9] = example(id=9, image=png(9), captions=b"caf\xe9")
    records[10] = example(id=10, image=png(10), captions="собака бежит")
    shard = write_shard(tmp_path / "a.tfrecord", records)
    return Manifest("m", (Source("mine", id="id"),), (shard,))


def test_it_finds_what_is_there(manifest, tokenizer, tmp_path):
    report = doctor.examine(manifest)
    source = report.sources["mine"]
    assert (report.records, report.bad, report.duplicate_ids) == (40, 4, 1)
    assert report.duplicate_captions == 1 and report.most_repeated == {"record 7": 2}
    assert source.counts["unreadable_image"] == 3 and source.counts["caption_not_utf8"] == 1
    assert source.scripts["CYRILLIC"] == 1 and source.scripts["LATIN"] >= 36
    assert source.shorter_side == {"<=32": 37}
    assert [where[1] for where in source.problems["bad_record"]] == [3, 4, 5, 8]
    batch = next(pipeline.in_order(manifest, tokenizer, 40, image_size=4).as_numpy_iterator())
    assert (~batch["valid"]).nonzero()[0].tolist() == [3, 4, 5, 8]
    json_path, html_path = doctor.write(report, str(tmp_path / "report"))
    content = json.loads(open(json_path).read())  # noqa: SIM115
    assert content["sources"]["mine"]["problems"]["empty_caption"][0][1:] == [5, 5]
    page = open(html_path).read()  # noqa: SIM115
    assert "a.tfrecord record 8" in page and "data:image/png" in page
    assert "4 of 40 records (10.00%) cannot be used" in page
    doctor.check_bound(report, 0.2)
    with pytest.raises(UserError, match="4 of 40"):
        doctor.check_bound(report, 0.05)


def test_a_corrupt_shard_is_reported_and_the_rest_is_read(manifest, tmp_path):
    good = manifest.shards[0]
    broken = tmp_path / "b.tfrecord"
    content = bytearray(open(good.path, "rb").read())  # noqa: SIM115
    content[-2000:-1900] = bytes(100)
    broken.write_bytes(content)
    both = Manifest("m", manifest.sources, (Shard(str(broken), 40), good, Shard(good.path, 50)))
    report = doctor.examine(both)
    assert set(report.unreadable_shards) == {str(broken), good.path}
    assert "after record" in report.unreadable_shards[str(broken)]
    assert "40 records, the manifest says 50" in report.unreadable_shards[good.path]
    assert 80 < report.records < 120


def test_ids_that_two_sources_share_are_told_and_sources_of_one_name_stay_apart(make_manifest):
    one, other = make_manifest([10], name="a"), make_manifest([10], first_id=7, name="b")
    sources = (Source("same", id="id"), Source("same", id="id"))
    shards = (*one.shards, Shard(other.shards[0].path, 10, 1, 0, other.shards[0].bytes))
    report = doctor.examine(Manifest("both", sources, shards))
    assert (report.duplicate_ids, report.shared_ids) == (3, 3)
    assert {name: s.records for name, s in report.sources.items()} == {"same": 10, "same (2)": 10}
    sizes = json.loads(report.to_json())["sources"]["same"]["caption_bytes_percentiles"]
    assert sizes == [8, 8, 8, 8, 8, 8]
