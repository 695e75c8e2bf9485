"""Evaluation data: every record once, with all of its captions and its label."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from jest_tf.data.examples import parse_examples
from jest_tf.data.manifest import Manifest, Source, check_files
from jest_tf.data.preprocess import decode_all
from jest_tf.errors import UserError
from jest_tf.model_record import PixelRule


class Batch(NamedTuple):
    """k records that could be read.

    `encoded`: the image files; `images`: uint8 [k, S, S, 3]; `captions`: those of each record, or
    an empty list where the source has none; `labels`: int64 [k], -1 where the source has none.
    """

    encoded: list[bytes]
    images: np.ndarray
    captions: list[list[str]]
    labels: np.ndarray


class EvaluationData:
    """Reads a manifest for evaluation, in file order.

    Args:
        manifest: what to read.
        decode_size, pixels: side in pixels of the images, and how they are resized to it.

    Attributes:
        n_skipped: records passed over in the last pass: pictures that cannot be decoded.
    """

    def __init__(self, manifest: Manifest, decode_size: int, pixels: PixelRule = PixelRule()):
        check_files(manifest)
        self.manifest = manifest
        self.decode_size, self.pixels = decode_size, pixels
        self.n_skipped = 0

    @property
    def label_texts(self) -> tuple[str, ...]:
        """Text of each class in label order, as far as the (first) source knows them."""
        return self.manifest.sources[0].labels

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All readable records in batches of at most `batch_size`.

        Raises:
            UserError: a file that is not TFRecord or is corrupt.
        """
        self.n_skipped = 0
        for number, source in enumerate(self.manifest.sources):
            try:
                # Iterated anew each time; built once, because a run evaluates thousands of times
                # and each graph takes a second to build and memory that is slow to come back.
                for fields in _parsed(
                    self.manifest, number, batch_size, self.decode_size, self.pixels
                ):
                    yield self._readable(source, fields)
            except tf.errors.OpError as error:
                raise UserError(
                    f"{self.manifest.name}: source {source.name!r} cannot be read: "
                    f"{error.message}. Restore its files, or prepare the set again."
                ) from error

    def _readable(self, source: Source, fields: dict) -> Batch:
        ok = fields["ok"].numpy()
        self.n_skipped += int(np.count_nonzero(~ok))
        captions = []
        if source.captions:
            written = fields["captions"].to_list()
            captions = [_texts(of_one) for of_one, is_ok in zip(written, ok, strict=True) if is_ok]
        encoded = fields["encoded"].numpy()[ok].tolist()
        return Batch(encoded, fields["images"].numpy()[ok], captions, fields["labels"].numpy()[ok])


@functools.lru_cache(maxsize=16)
def _parsed(
    manifest: Manifest, number: int, batch_size: int, decode_size: int, pixels: PixelRule
) -> tf.data.Dataset:
    """The records of one source of a manifest, in batches of fields."""
    source = manifest.sources[number]
    shards = [shard for shard in manifest.shards if shard.source == number]
    files = tf.data.Dataset.from_tensor_slices(
        (
            [shard.path for shard in shards],
            [tf.constant(shard.start, tf.int64) for shard in shards],
            [tf.constant(shard.records, tf.int64) for shard in shards],
        )
    )
    records = files.flat_map(
        lambda path, start, n: tf.data.TFRecordDataset(path).skip(start).take(n)
    )
    parsed = records.batch(batch_size).map(lambda batch: _parse(source, batch, decode_size, pixels))
    return parsed.prefetch(1)


def _parse(source: Source, serialized: tf.Tensor, decode_size: int, pixels: PixelRule) -> dict:
    spec = {source.image: tf.io.FixedLenFeature([], tf.string, "")}
    if source.captions:
        spec[source.captions] = tf.io.RaggedFeature(tf.string)
    if source.label:
        spec[source.label] = tf.io.FixedLenFeature([], tf.int64, -1)
    fields = parse_examples(serialized, spec)
    images, ok = decode_all(fields[source.image], decode_size, pixels)
    labels = tf.fill(tf.shape(serialized), tf.constant(-1, tf.int64))
    return {
        "encoded": fields[source.image],
        "images": images,
        "ok": ok,
        "labels": fields[source.label] if source.label else labels,
        "captions": fields[source.captions] if source.captions else tf.constant(0),
    }


def _texts(captions: list[bytes]) -> list[str]:
    """Decoded captions without those that are empty."""
    texts = [caption.decode("utf-8", errors="replace") for caption in captions]
    return [text for text in texts if text.strip()]
