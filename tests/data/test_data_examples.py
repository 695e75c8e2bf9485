"""Records that claim more than they hold: refused, where TensorFlow's parser ends the process."""

import numpy as np
import pytest
import tensorflow as tf
from small_shards import example, png, write_shard

from jest_tf.data import pipeline
from jest_tf.data.fields import parse_examples
from jest_tf.data.manifest import Manifest, Source
from jest_tf.data.records import read_captions

SPEC = {
    "image": tf.io.FixedLenFeature([], tf.string, ""),
    "caption": tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64),
}
# From 2 GB on, TensorFlow 2.20 takes the length for a negative number.
LENGTHS = (2**20, 2**31 - 1, 2**31, 2**31 + 16, 0xF0000000, 2**32 - 1, 2**35)


def varint(number: int) -> bytes:
    *low, last = [number >> shift & 127 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(bits | 128 for bits in low), last])


def field(number: int, data: bytes, length: int | None = None) -> bytes:
    return varint(number << 3 | 2) + varint(len(data) if length is None else length) + data


def forged(feature: str, length: int) -> bytes:
    """An Example whose one string claims `length` bytes and holds three."""
    value = field(1, field(1, b"abc", length))
    return field(1, field(1, field(1, feature.encode()) + field(2, value)))


def test_the_forgery_is_an_example_but_for_its_length():
    parsed = tf.train.Example.FromString(forged("image", 3))
    assert parsed.features.feature["image"].bytes_list.value[0] == b"abc"


@pytest.mark.parametrize("feature", SPEC)
@pytest.mark.parametrize("length", LENGTHS)
def test_a_length_beyond_the_record_is_an_error(feature, length):
    sound = example(image=b"x", caption="c")
    parse = tf.function(lambda records: parse_examples(records, SPEC), autograph=False)
    with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.DataLossError)):
        parse(tf.constant([sound, forged(feature, length)]))


def test_sound_records_are_parsed_as_tensorflow_does():
    records = [example(image=b"a" * n, caption=["one", "two"][: n % 3]) for n in range(9)]
    records += [b"", example(caption="alone")]
    found, expected = (
        parse(tf.constant(records), SPEC) for parse in (parse_examples, tf.io.parse_example)
    )
    assert found["image"].numpy().tolist() == expected["image"].numpy().tolist()
    assert found["caption"].to_list() == expected["caption"].to_list()


def test_training_and_its_vocabulary_pass_over_forged_records(tmp_path, tokenizer):
    records = [example(id=n, image=png(n), captions=f"record {n}") for n in range(32)]
    bad = {3: forged("image", 2**31), 4: forged("captions", 2**32 - 1), 20: b"\xff" * 9}
    for number, record in bad.items():
        records[number] = record
    shard = write_shard(tmp_path / "a.tfrecord", records)
    manifest = Manifest("forged", (Source("forged", id="id"),), (shard,))
    batches = pipeline.super_batches(
        manifest, tokenizer, super_batch=32, image_size=4, seed=0, n_lanes=1, shuffle=False
    )
    batch = next(iter(batches))
    assert np.flatnonzero(~batch["valid"].numpy()).tolist() == sorted(bad)
    captions = [f"record {n}".encode() for n in range(32) if n not in bad]
    assert read_captions(manifest, 100) == captions
