"""A record is read in a graph and in Python by one rule."""

import sys
import unicodedata

import pytest
import tensorflow as tf
from small_shards import example, png, write_shard

from jest_tf.data import doctor, fields, pipeline
from jest_tf.data.evaluation_data import EvaluationData
from jest_tf.data.manifest import Manifest, Source
from jest_tf.data.records import look_up, read_captions, shard_records

PLAIN = Source("plain", id="id", key="key", label="label")
CLASSES = Source("classes", captions=None, label="label", labels=("cat", "dog"))


def graph_fields(source: Source, record: bytes) -> fields.Record | None:
    try:
        found = fields.in_graph(source, tf.constant([record]))
    except (tf.errors.InvalidArgumentError, tf.errors.DataLossError):
        return None
    values = {name: value.numpy()[0] for name, value in found.items() if name != "captions"}
    return fields.Record(
        int(values.get("id", -1)),
        values.get("key", b""),
        values["image"],
        found["captions"].to_list()[0],
        int(values.get("label", -1)),
    )


@pytest.mark.parametrize("source", [PLAIN, CLASSES], ids=["captions", "classes"])
@pytest.mark.parametrize(
    "record",
    [
        example(id=7, image=b"x", captions=["a", "b"], label=1, key="k"),
        example(id=7, image=b"x", captions=[], label=0),
        example(image=b"x", captions="a"),
        example(id=7, image=b"x", captions="a", label=5),
        example(id=7, image=b"x", captions="a", label=-3),
        example(id=7, image=["x", "y"], captions="a", label=1),
        example(id=7, image=3, captions="a", label=1),
        example(id=7, image=b"x", captions=3, label="cat"),
        example(id="7", image=b"x", captions="a", label="cat"),
        b"\xff\xffno example",
        b"",
    ],
    ids=range(11),  # the order of serialized features changes from process to process
)
def test_graph_and_python_read_the_same(source, record):
    by_graph, by_python = graph_fields(source, record), fields.in_python(source, record)
    if by_graph is not None:
        assert by_python == by_graph
    elif by_python != fields.UNREADABLE:  # a class or a key that training does not look at
        wanted = ("image", "captions", "id")
        found = fields.in_graph(source, tf.constant([record]), wanted)
        assert source.captions and found["captions"].to_list()[0] == by_python.captions


def test_every_character_is_text_or_blank_in_both():
    characters = [chr(code) for code in range(sys.maxunicode) if not 0xD800 <= code < 0xE000]
    # Of the younger ones the two Unicode tables need not know the same.
    known = [c for c in characters if unicodedata.category(c) != "Cn"]
    by_graph = fields.are_texts(tf.constant(known)).numpy().tolist()
    assert by_graph == [fields.is_text(c.encode()) for c in known]
    odd = [
        b"",
        b" \t\n",
        b"\xff\xfe",
        b"\xe2\x82",
        b"caf\xe9",
        b" " * 5000 + b"late",
        "\u3000".encode(),
    ]
    assert fields.are_texts(tf.constant(odd)).numpy().tolist() == [fields.is_text(o) for o in odd]


def test_what_cannot_be_seen_is_no_text():
    unseen = [
        "\u200b",
        "\ufeff",
        "\u200d\u2060",
        "\xad",
        "\u3164",
        "\u2800",
        "\ufe0f",
        "\U000e0041",
    ]
    unseen += [" ".join(unseen)]
    seen = [text + "a" for text in unseen] + ["\u2764\ufe0f", "\u20ac", "\U0001f600"]
    by_graph = fields.are_texts(tf.constant(unseen + seen)).numpy().tolist()
    assert by_graph == [False] * len(unseen) + [True] * len(seen)
    assert by_graph == [fields.is_text(text.encode()) for text in unseen + seen]


def test_empty_captions_are_dropped_before_one_is_drawn(tmp_path, tokenizer):
    """The doctor, training and evaluation agree on which records can be used."""
    records = [
        example(id=n, image=png(n), captions=["", f"record {n}", " ", f"red {n}"][: n % 5])
        for n in range(64)
    ]
    shard = write_shard(tmp_path / "a.tfrecord", records)
    manifest = Manifest("m", (Source("m", id="id"),), (shard,))
    batches = pipeline.super_batches(
        manifest, tokenizer, super_batch=64, image_size=4, seed=0, n_lanes=1, shuffle=False
    ).as_numpy_iterator()
    usable = [n for n in range(64) if n % 5 >= 2]
    drawn = set()
    for _ in range(6):
        batch = next(batches)
        assert batch["valid"].nonzero()[0].tolist() == usable
        assert batch["record"].tolist() == list(range(64))
        drawn |= {(n, int(batch["caption_index"][n])) for n in usable}
    assert {index for n, index in drawn if n % 5 == 4} == {1, 3}
    assert {index for n, index in drawn if n % 5 != 4} == {1}
    assert doctor.examine(manifest).bad == 64 - len(usable)
    (batch,) = EvaluationData(manifest, 4).batches(64)
    assert [len(texts) for texts in batch.captions] == [[0, 0, 1, 1, 2][n % 5] for n in range(64)]
    captions = read_captions(manifest, 1000)
    assert len(captions) == sum(map(len, batch.captions)) and b"" not in captions


def test_records_are_found_by_their_number(tmp_path, make_manifest):
    manifest = make_manifest([5, 3, 7])
    every = [r for index in range(3) for r in shard_records(manifest, index)]
    assert [r.captions for r in look_up(manifest, range(15))] == [r.captions for r in every]
    assert [r.key for r in look_up(manifest, [6, 14])] == [
        b"numbers-00001.tfrecord#1", b"numbers-00002.tfrecord#6",
    ]  # fmt: skip
    (tmp_path / "numbers-00001.tfrecord").unlink()
    found = look_up(manifest, [5, 0, 99])
    assert found[0] == found[2] == fields.UNREADABLE and found[1].id == 0
