"""Writes a few records and the manifest that lists them."""

import tensorflow as tf

from jest_tf.data.manifest import Manifest, Shard, Source


def example(image: bytes, caption: str) -> bytes:
    def feature(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {"image": feature(image), "caption": feature(caption.encode())}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_records(folder, records) -> str:
    path = str(folder / "a.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    source = Source("squares", image="image", captions="caption")
    manifest = Manifest("squares", (source,), (Shard(path, len(records)),))
    manifest.save(str(folder / "manifest.json"))
    return str(folder)
