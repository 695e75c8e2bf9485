"""Records whose pictures stay in a tar: their shard holds all else, and where each picture lies.

Such a record has the features that `prepare` writes but `image`, and
    place  int64 [3]: first byte and bytes of the picture in the tar, and the hash of these bytes
    frame  bytes: what turns the picture, behind it, into the feature `image` of the same Example
Record, frame and picture together are the record that a copy would be.
"""

import functools
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from jest_tf.data.fields import example, parse_examples
from jest_tf.data.manifest import Manifest, Shard

# Pictures that are read by one function call, unless a chunk of another length is given.
WIDTH = 16


def hashes(pictures: Iterable[bytes]) -> list[int]:
    return _hash(tf.constant(list(pictures), tf.string)).numpy().tolist()


def _hash(pictures: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_hash_bucket_fast(pictures, 2**63 - 1)


def place(picture: bytes, offset: int, picture_hash: int) -> dict:
    """The features of a picture that lies in the tar from byte `offset` on."""
    frame = example({"image": [picture]})[: -len(picture)]
    return {"place": [offset, len(picture), picture_hash], "frame": [frame]}


def records(shard: Shard) -> tf.data.Dataset:
    """The serialized records of a shard, with their pictures."""
    file = tf.data.TFRecordDataset(shard.path).skip(shard.start).take(shard.records)
    if not shard.tar:
        return file

    def whole(serialized):
        n = tf.shape(serialized)
        size = tf.constant(shard.tar_bytes, tf.int64)
        return _completed(serialized, tf.fill(n, shard.tar), tf.fill(n, size))

    return file.batch(WIDTH).map(whole).unbatch()


class Completer:
    """Puts the pictures into records of a manifest, by their numbers in it."""

    def __init__(self, manifest: Manifest):
        self._shards = manifest.shards if any(s.tar for s in manifest.shards) else ()
        self._firsts = manifest.firsts[:-1]

    def __call__(self, record: tf.Tensor, serialized: tf.Tensor) -> tf.Tensor:
        """record int64 [c], serialized string [c] -> string [c].

        Raises in graph, naming the file, where a tar is gone or has another size. A picture of
        other bytes than were listed is left out, so its record is a bad one.
        """
        if not self._shards:
            return serialized
        at = tf.searchsorted(tf.constant(self._firsts), tf.maximum(record, 0), side="right") - 1
        tars = tf.gather(tf.constant([s.tar for s in self._shards]), at)
        sizes = tf.gather(tf.constant([s.tar_bytes for s in self._shards], tf.int64), at)
        return _completed(serialized, tars, sizes)


def _completed(serialized: tf.Tensor, tars: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """string [c]; tars string [c], "" where records are whole; sizes int64 [c] of the tars."""
    return _reading(serialized.shape[0] or WIDTH)(serialized, tars, sizes)


@functools.cache
def _reading(n: int) -> Callable:
    """`_completed` by rows of n pictures, traced once for vectors of any length."""
    vectors = [tf.TensorSpec([None], dtype) for dtype in (tf.string, tf.string, tf.int64)]
    function = tf.function(functools.partial(_by_rows, n), autograph=False)
    return function.get_concrete_function(*vectors)


def _by_rows(n: int, serialized: tf.Tensor, tars: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    spec = {
        "place": tf.io.FixedLenFeature([3], tf.int64, np.zeros(3, np.int64)),
        "frame": tf.io.FixedLenFeature([], tf.string, ""),
    }
    parsed = parse_examples(tf.where(tars == "", "", serialized), spec)
    offset, length, expected = tf.unstack(parsed["place"], axis=1)
    columns = [_in_rows(column, n) for column in (tars, sizes, offset, length)]
    pictures = tf.map_fn(_read, columns, fn_output_signature=tf.TensorSpec([n], tf.string))
    pictures = tf.reshape(pictures, [-1])[: tf.size(serialized)]
    found = (length > 0) & (_hash(pictures) == expected)
    return tf.where(found, tf.strings.join([serialized, parsed["frame"], pictures]), serialized)


def _in_rows(column: tf.Tensor, n: int) -> tf.Tensor:
    """[c] -> [rows, n], filled up with zeros or empty texts."""
    more = tf.zeros([-tf.size(column) % n], column.dtype)
    return tf.reshape(tf.concat([column, more], 0), [-1, n])


def _read(columns: list[tf.Tensor]) -> tf.Tensor:
    """string [n]: parts of files, by their columns [n]; empty where no bytes are asked for.

    TensorFlow reads a part of a file as the one record between a header and a footer.
    """
    asked = columns[-1] > 0

    def read():
        # In the place of what nobody asks for, the first part that somebody asks for.
        first = tf.argmax(asked)
        files, sizes, offsets, lengths = (tf.where(asked, c, c[first]) for c in columns)
        parts = [
            tf.raw_ops.FixedLengthRecordDatasetV2(
                filenames=files[i][None],
                header_bytes=offsets[i],
                record_bytes=lengths[i],
                footer_bytes=sizes[i] - offsets[i] - lengths[i],
                buffer_size=lengths[i],
                compression_type="",
            )
            for i in range(asked.shape[0])
        ]
        text = tf.TensorSpec([], tf.string)
        parts = [tf.data.experimental.from_variant(part, text) for part in parts]
        return tf.where(asked, tf.stack(tf.data.Dataset.zip(*parts).get_single_element()), "")

    return tf.cond(tf.reduce_any(asked), read, lambda: tf.fill(tf.shape(asked), ""))
