"""Records whose pictures stay in a tar: their shard holds all else, and where each picture lies.

Such a record has the features that `prepare` writes but `image`, and
    place  int64 [3]: first byte and bytes of the picture in the tar, and the hash of these bytes
    frame  bytes: what turns the picture, behind it, into the feature `image` of the same Example
Record, frame and picture together are the record that a copy would be.
"""

import functools
from collections.abc import Callable, Iterable
from concurrent import futures

import numpy as np
import tensorflow as tf

from jest_tf.data.fields import example, parse_examples
from jest_tf.data.formats.files import READ_ERRORS, is_remote, read_part
from jest_tf.data.manifest import Manifest, Shard
from jest_tf.errors import explaining

AT_ONCE = 64  # pictures of remote tars that are asked for at the same time
BATCH = 16  # records of a shard whose pictures are held


def hashes(pictures: Iterable[bytes]) -> list[int]:
    return _hash(tf.constant(list(pictures), tf.string)).numpy().tolist()


def _hash(pictures: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_hash_bucket_fast(pictures, 2**63 - 1)


def place(picture: bytes, offset: int, picture_hash: int) -> dict:
    """The features of a picture that lies in the tar from byte `offset` on."""
    frame = example({"image": [picture]})[: -len(picture)]
    return {"place": [offset, len(picture), picture_hash], "frame": [frame]}


def records(shard: Shard, pictures: bool = True) -> tf.data.Dataset:
    """The serialized records of a shard. Without `pictures`, those in a tar are not read."""
    file = tf.data.TFRecordDataset(shard.path).skip(shard.start).take(shard.records)
    if not (shard.tar and pictures):
        return file

    def whole(serialized):
        return _completed()(serialized, tf.fill(tf.shape(serialized), shard.tar))

    return file.batch(BATCH).map(whole).unbatch()


class Completer:
    """Puts the pictures into records of a manifest, by their numbers in it."""

    def __init__(self, manifest: Manifest):
        self._shards = manifest.shards if any(s.tar for s in manifest.shards) else ()
        self._firsts = manifest.firsts[:-1]

    def __call__(self, record: tf.Tensor, serialized: tf.Tensor) -> tf.Tensor:
        """record int64 [c], serialized string [c] -> string [c].

        Raises in graph, naming the file, where a tar is gone or was cut. A picture of other bytes
        than were listed is left out, so its record is a bad one.
        """
        if not self._shards:
            return serialized
        at = tf.searchsorted(tf.constant(self._firsts), record, side="right") - 1
        tars = tf.gather(tf.constant([s.tar for s in self._shards]), at)
        return _completed()(serialized, tars)


@functools.cache
def _completed() -> Callable:
    """(serialized string [c], tars string [c], "" where records are whole) -> string [c]; traced
    once."""
    spec = {
        "place": tf.io.FixedLenFeature([3], tf.int64, np.zeros(3, np.int64)),
        "frame": tf.io.FixedLenFeature([], tf.string, ""),
    }

    def completed(serialized, tars):
        parsed = parse_examples(tf.where(tars == "", "", serialized), spec)
        offset, length, expected = tf.unstack(parsed["place"], axis=1)
        # TensorFlow has no operation for a part of a file, but for a data set of each part, which
        # costs five times as much.
        pictures = tf.numpy_function(_read, [tars, offset, length], tf.string)
        pictures = tf.ensure_shape(pictures, [None])
        found = (length > 0) & (_hash(pictures) == expected)
        return tf.where(found, tf.strings.join([serialized, parsed["frame"], pictures]), serialized)

    vectors = [tf.TensorSpec([None], tf.string)] * 2
    return tf.function(completed, autograph=False).get_concrete_function(*vectors)


def _read(tars: np.ndarray, offsets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """object [c]: parts of files; empty where no bytes are asked for."""
    parts = [tar.decode() for tar in tars.tolist()], offsets.tolist(), lengths.tolist()
    at_once = _pool().map if any(map(is_remote, parts[0])) else map
    return np.array([*at_once(_part, *parts)], object)


def _part(path: str, offset: int, length: int) -> bytes:
    if not length:
        return b""
    text = f"{path} cannot be read at byte {offset:,}: {{error}}"
    with explaining(READ_ERRORS, text):
        content = read_part(path, offset, length)
        if len(content) < length:
            raise EOFError("it ends earlier than when it was listed")
        return content


@functools.cache
def _pool() -> futures.Executor:
    return futures.ThreadPoolExecutor(AT_ONCE)
