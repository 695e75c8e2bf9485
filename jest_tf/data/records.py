"""From serialized tf.train.Examples to {id, image, caption, source, label, valid}, in graph."""

import functools
import os
from collections.abc import Iterator

import tensorflow as tf

from jest_tf.data import preprocess
from jest_tf.data.examples import parse_examples
from jest_tf.data.manifest import Manifest, Source
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.model_record import PixelRule

# A caption counts as empty when its first bytes, as UTF-8, hold nothing but white space.
MAX_JUDGED_BYTES = 4096


class RecordReader:
    """Reads the records of one manifest; every source by its own feature names.

    Args:
        manifest: whose sources and shards the records come from.
        image_size: side of the decoded square image, in pixels.
        seed: of the draw of one caption where a record has several.
        draw_caption: draw a caption per visit (training), or take the first (evaluation).
        reference_cache: whose records come along with the data's.
        pixels: how pictures are resized.
    """

    def __init__(
        self,
        manifest: Manifest,
        image_size: int,
        seed: int = 0,
        draw_caption: bool = True,
        reference_cache: ReferenceCache | None = None,
        pixels: PixelRule = PixelRule(),
    ):
        self.sources = manifest.sources
        self.image_size, self.pixels = image_size, pixels
        self.seed = seed
        self.draw_caption = draw_caption
        self.reference_cache = reference_cache
        first, self._first_records = 0, []
        for shard in manifest.shards:
            self._first_records.append(first)
            first += shard.records
        self._shard_sources = [shard.source for shard in manifest.shards]
        self._shard_names = [os.path.basename(shard.path) for shard in manifest.shards]
        self._shard_starts = [shard.start for shard in manifest.shards]

    # Traced once, for chunks of any length: its graph is the largest part of a pipeline.
    @functools.cached_property
    def read(self) -> tf.types.experimental.PolymorphicFunction:
        """`read_chunk` as one traced function."""
        dtypes = [tf.int64, tf.int64, tf.string] + [tf.string] * bool(self.reference_cache)
        return _traced_once(self.read_chunk, dtypes)

    @functools.cached_property
    def _parse_all(self) -> tf.types.experimental.PolymorphicFunction:
        return _traced_once(self._parse_sources, [tf.int64, tf.int64, tf.string])

    def read_chunk(self, epoch: tf.Tensor, record: tf.Tensor, serialized: tf.Tensor, *cached):
        """Parses and decodes c records.

        Args:
            epoch: int64 [c], how often the record was visited before.
            record: int64 [c], number of the record in manifest order.
            serialized: string [c].
            cached: with a reference cache, string [c]: its records.

        Returns:
            {id int64, image uint8 [c, S, S, 3], caption string, source int32, label int32,
            valid bool}, all [c]. Raises in graph where a record cannot be parsed or decoded, which
            the pipeline turns into an invalid record.
        """
        fields = self._parse_all(epoch, record, serialized)
        encoded = fields.pop("encoded")
        image, decoded = preprocess.decode_batch(encoded, self.image_size, self.pixels)
        text = tf.strings.unicode_transcode(
            tf.strings.substr(fields["caption"], 0, MAX_JUDGED_BYTES), "UTF-8", "UTF-8", "ignore"
        )
        valid = decoded & tf.strings.regex_full_match(text, r"(?s).*\S.*")
        caption_index = fields.pop("caption_index")
        if self.reference_cache:
            reference = self.reference_cache.parse(cached[0], caption_index)
            # A wrong reference would be worse than one candidate less.
            valid &= reference.pop("id") == fields["id"]
            fields |= reference
        return fields | {"image": image, "valid": valid}

    def without_image(self, epoch: tf.Tensor, record: tf.Tensor, serialized: tf.Tensor, *_):
        """As `read`, but for records whose image is corrupt: black and not valid."""
        fields = self._parse_all(epoch, record, serialized)
        return {name: fields.get(name, value) for name, value in self._blank(record).items()}

    def unreadable(self, epoch: tf.Tensor, record: tf.Tensor, *_):
        """What stands in the slots of records that `read` raises on: valid = False, id < 0.

        The id is -(record number + 1), so that `Manifest.locate` finds the record.
        """
        return self._blank(record)

    def _blank(self, record: tf.Tensor) -> dict:
        n, size = tf.shape(record)[0], self.image_size
        blank = {
            "id": -record - 1,
            "caption": tf.fill([n], ""),
            "label": tf.fill([n], -1),
            "image": tf.zeros([n, size, size, 3], tf.uint8),
            "source": tf.gather(tf.constant(self._shard_sources, tf.int32), self._shard_of(record)),
            "valid": tf.zeros([n], tf.bool),
        }
        if self.reference_cache:
            nothing = tf.zeros([n, self.reference_cache.dim])
            blank |= {"reference_zimg": nothing, "reference_ztxt": nothing}
        return blank

    def _parse_sources(self, epoch: tf.Tensor, record: tf.Tensor, serialized: tf.Tensor) -> dict:
        shard = self._shard_of(record)
        source = tf.gather(tf.constant(self._shard_sources, tf.int32), shard)
        merged = {}
        for index, features in enumerate(self.sources):
            own = tf.where(source == index, serialized, b"")
            fields = self._parse(features, own, shard, record, epoch)
            merged = {
                name: tf.where(source == index, value, merged.get(name, value))
                for name, value in fields.items()
            }
        return merged | {"source": source}

    def _shard_of(self, record: tf.Tensor) -> tf.Tensor:
        firsts = tf.constant(self._first_records, tf.int64)
        return tf.maximum(tf.searchsorted(firsts, record, side="right") - 1, 0)

    def _parse(self, source: Source, serialized, shard, record, epoch) -> dict:
        spec = {source.image: tf.io.FixedLenFeature([], tf.string, "")}
        if source.captions:
            spec[source.captions] = tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64)
        if source.id:
            spec[source.id] = tf.io.FixedLenFeature([], tf.int64, -1)
        elif source.key:
            spec[source.key] = tf.io.FixedLenFeature([], tf.string, "")
        if source.label:
            spec[source.label] = tf.io.FixedLenFeature([], tf.int64, -1)
        parsed = parse_examples(serialized, spec)
        record_id = self._id(source, parsed, shard, record)
        label = tf.fill(tf.shape(record), tf.constant(-1, tf.int64))
        label = parsed[source.label] if source.label else label
        if source.captions:
            caption, index = self._one_caption(parsed[source.captions], record_id, epoch)
        else:
            texts = tf.constant(("",) + source.labels)
            caption = tf.gather(texts, tf.clip_by_value(label + 1, 0, len(source.labels)))
            index = tf.zeros_like(record)
        return {
            "id": tf.where(record < 0, tf.constant(-1, tf.int64), record_id),  # padding
            "encoded": parsed[source.image],
            "caption": caption,
            "caption_index": index,
            "label": tf.cast(label, tf.int32),
        }

    def _id(self, source: Source, parsed: dict, shard, record) -> tf.Tensor:
        """int64 [c]: the record's own id, or a hash of source and key (or of file and index)."""
        if source.id:
            return parsed[source.id]
        if source.key:
            key = parsed[source.key]
        else:
            names = tf.gather(tf.constant(self._shard_names), shard)
            index = record - tf.gather(tf.constant(self._first_records, tf.int64), shard)
            index += tf.gather(tf.constant(self._shard_starts, tf.int64), shard)
            key = tf.strings.join([names, tf.strings.as_string(index)], "#")
        return hashed_id(source.name, key)

    def _one_caption(self, captions: tf.RaggedTensor, record_id, epoch):
        """(string [c], int64 [c]): a caption of each record, and which of its captions it is."""
        n = captions.row_lengths()
        pick = tf.zeros_like(n)
        if self.draw_caption:
            visit = [
                tf.fill(tf.shape(n), str(self.seed)),
                tf.strings.as_string(record_id),
                tf.strings.as_string(epoch),
            ]
            draw = tf.strings.to_hash_bucket_fast(tf.strings.join(visit, "/"), 2**31 - 1)
            pick = draw % tf.maximum(n, 1)
        # One empty caption more, for records that have none.
        texts = tf.concat([captions.flat_values, [""]], 0)
        none = tf.size(texts, tf.int64) - 1
        return tf.gather(texts, tf.where(n > 0, captions.row_starts() + pick, none)), pick


def _traced_once(function, dtypes) -> tf.types.experimental.PolymorphicFunction:
    """For vectors of these dtypes and any length."""
    signature = [tf.TensorSpec([None], dtype) for dtype in dtypes]
    return tf.function(function, input_signature=signature, autograph=False)


def hashed_id(source_name: str, key: tf.Tensor) -> tf.Tensor:
    """int64: 63-bit fingerprint of a source's name and a record's key (string, any shape)."""
    return tf.strings.to_hash_bucket_fast(tf.strings.join([source_name, key], ":"), 2**63 - 1)


def shard_rows(manifest: Manifest, index: int) -> Iterator[tuple[int, bytes, list[bytes]]]:
    """(id, encoded image, captions) of each record of a shard, in order, as training reads them.

    A record that is no tf.train.Example keeps its place with id -1 and nothing in it.
    """
    shard = manifest.shards[index]
    source = manifest.sources[shard.source]
    file = tf.data.TFRecordDataset(shard.path).skip(shard.start).take(shard.records)
    for number, serialized in enumerate(file.as_numpy_iterator(), start=shard.start):
        try:
            feature = tf.train.Example.FromString(serialized).features.feature
        except Exception:  # protobuf's DecodeError has no stable import path
            yield -1, b"", []
            continue
        image = b"".join(feature[source.image].bytes_list.value[:1])
        if source.captions:
            captions = list(feature[source.captions].bytes_list.value)
        else:
            captions = [source.labels[i].encode() for i in feature[source.label].int64_list.value]
        if source.id:
            record_id = next(iter(feature[source.id].int64_list.value), -1)
        else:
            key = f"{os.path.basename(shard.path)}#{number}".encode()
            if source.key:
                key = b"".join(feature[source.key].bytes_list.value[:1])
            record_id = int(hashed_id(source.name, tf.constant(key)))
        yield record_id, image, captions


def read_captions(manifest: Manifest, limit: int) -> list[bytes]:
    """Up to `limit` distinct captions of a manifest, in its order; images are not decoded.

    Records that cannot be parsed are passed over: training counts and reports them.
    """
    captions: dict[bytes, None] = {}
    for shard in manifest.shards:
        source = manifest.sources[shard.source]
        if source.captions is None:
            captions |= dict.fromkeys(text.encode() for text in source.labels)
            continue
        spec = {source.captions: tf.io.RaggedFeature(tf.string)}
        file = tf.data.TFRecordDataset(shard.path).skip(shard.start).take(shard.records)
        parse = _traced_once(lambda s, spec=spec: parse_examples(s, spec), [tf.string])
        for batch in file.batch(1024):
            for parsed in _parsed(parse, batch):
                captions |= dict.fromkeys(parsed[source.captions].flat_values.numpy().tolist())
        if len(captions) >= limit:
            break
    return list(captions)[:limit]


def _parsed(parse, serialized: tf.Tensor) -> Iterator[dict]:
    """`parse` of all at once, or, where one of them raises, of those that do not."""
    try:
        yield parse(serialized)
    except (tf.errors.InvalidArgumentError, tf.errors.DataLossError):
        if len(serialized) > 1:
            for half in (serialized[: len(serialized) // 2], serialized[len(serialized) // 2 :]):
                yield from _parsed(parse, half)
