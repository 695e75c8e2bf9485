"""TFRecord shards whose every pixel and caption is known."""

import io
import pathlib

import numpy as np
import tensorflow as tf
from PIL import Image

from jest_tf.data.manifest import Shard


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
