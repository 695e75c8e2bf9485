"""Small data sets made in the test: TFRecord shards whose every pixel and caption is known."""

import io
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from jest_tf.data.manifest import Manifest, Shard, Source
from jest_tf.data.tokenizer import Tokenizer

VOCAB = ["[PAD]", "[UNK]", "[EOS]", "record", "red", "dog", "##s"] + [str(d) for d in range(10)]
VOCAB += [f"##{d}" for d in range(10)]


def png(number: int, size: int = 4) -> bytes:
    """A picture of one colour that names its record."""
    pixels = np.full((size, size, 3), (number % 251, number // 251, 7), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def example(**features) -> bytes:
    """A serialized tf.train.Example; bytes, str, int, or lists of them."""
    encoded = {}
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        if values and isinstance(values[0], int):
            encoded[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        else:
            values = [v.encode() if isinstance(v, str) else v for v in values]
            encoded[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    return tf.train.Example(features=tf.train.Features(feature=encoded)).SerializeToString()


def write_shard(path: pathlib.Path, records: list[bytes], source: int = 0) -> Shard:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return Shard(str(path), len(records), source, bytes=path.stat().st_size)


@pytest.fixture
def make_manifest(tmp_path):
    """make(sizes, first_id=0, name='numbers'): shards of these sizes with ids counted up."""

    def make(sizes, first_id=0, name="numbers") -> Manifest:
        shards, number = [], first_id
        for index, size in enumerate(sizes):
            records = [
                example(id=n, image=png(n), captions=f"record {n}")
                for n in range(number, number + size)
            ]
            shards.append(write_shard(tmp_path / f"{name}-{index:05d}.tfrecord", records))
            number += size
        return Manifest(name, (Source(name, id="id"),), tuple(shards))

    return make


@pytest.fixture(scope="session")
def vocab_path(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n")
    return str(path)


@pytest.fixture
def tokenizer(vocab_path) -> Tokenizer:
    return Tokenizer(vocab_path, n_tokens=8)
