"""Figure of `benchmarks.input`: pictures read from tars by an index of offsets, beside shards.

Both read the same bytes, 16 records at a time, and decode them as training does. No
operation of TensorFlow reads a part of a file, so the tars are read by Python inside the pipeline.
"""

import argparse
import functools
import os
import tarfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from benchmarks.figures import emit
from jest_tf.data import pipeline, preprocess
from jest_tf.model_record import PixelRule

SIZE = 112


def index_of(tars: list[str]) -> np.ndarray:
    """int64 [n, 3]: (tar, offset, bytes) of each picture."""
    places = []
    for number, path in enumerate(tars):
        with tarfile.open(path) as tar:
            places += [
                (number, m.offset_data, m.size) for m in tar if m.name.endswith(".jpg")
            ]  # fmt: skip
    return np.array(places, np.int64)


def _batches(encoded: tf.data.Dataset, batch: int) -> Iterator:
    def decode(chunk):
        return preprocess.decode_batch(tf.ensure_shape(chunk, [pipeline.CHUNK]), SIZE, PixelRule())

    decoded = encoded.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    return iter(decoded.batch(batch // pipeline.CHUNK).prefetch(1))


def from_tars(tars: list[str], batch: int) -> Iterator:
    files = [os.open(path, os.O_RDONLY) for path in tars]

    def read(places):
        return np.array([os.pread(files[t], size, at) for t, at, size in places.tolist()], object)

    chunks = tf.data.Dataset.from_tensor_slices(index_of(tars)).repeat()
    chunks = chunks.batch(pipeline.CHUNK, drop_remainder=True)
    return _batches(chunks.map(lambda p: tf.numpy_function(read, [p], tf.string)), batch)


def from_shards(paths: list[str], batch: int) -> Iterator:
    spec = {"image": tf.io.FixedLenFeature([], tf.string)}
    chunks = tf.data.TFRecordDataset(paths).repeat().batch(pipeline.CHUNK, drop_remainder=True)
    return _batches(chunks.map(lambda s: tf.io.parse_example(s, spec)["image"]), batch)


def tars_in_place(data, args: argparse.Namespace) -> list[dict]:
    from benchmarks.input import records_per_second

    lines = []
    for side in (512, 256):
        tars, shards = data.tars(side), [s.path for s in data.prepared(side).shards]
        makers = {"tars": functools.partial(from_tars, tars, 256)}
        makers["shards"] = functools.partial(from_shards, shards, 256)
        rate = records_per_second(makers, 256)
        lines.append(
            emit("tars_in_place", rate["tars"] / rate["shards"], ">= 0.9", "x", source_px=side,
                 records_per_second=rate)
        )  # fmt: skip
    return lines
