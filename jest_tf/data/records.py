"""From serialized tf.train.Examples to {id, image, caption, source, valid …}, in graph."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from concurrent import futures

import numpy as np
import tensorflow as tf

from jest_tf.data import fields, in_place, preprocess
from jest_tf.data.fields import Record
from jest_tf.data.manifest import Manifest, Shard, Source
from jest_tf.data.reference_cache import CAPTIONS, ReferenceCache
from jest_tf.data.units import HELD, HELD_BYTES
from jest_tf.model_record import PixelRule
from jest_tf.progress import Counter


class RecordReader:
    """Reads the records of one manifest; every source by its own feature names.

    seed: of the draw of one non-empty caption per visit. reference_cache: its records come along.
    """

    def __init__(
        self,
        manifest: Manifest,
        image_size: int,
        seed: int = 0,
        reference_cache: ReferenceCache | None = None,
        pixels: PixelRule = PixelRule(),
    ):
        self.sources = manifest.sources
        self.image_size, self.pixels = image_size, pixels
        self.seed, self.reference_cache = seed, reference_cache
        self.completed = in_place.Completer(manifest)
        self._first_records = manifest.firsts[:-1]
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
    def parse_all(self) -> tf.types.experimental.PolymorphicFunction:
        return _traced_once(self._parse_sources, [tf.int64, tf.int64, tf.string])

    def read_chunk(self, epoch: tf.Tensor, record: tf.Tensor, serialized: tf.Tensor, *cached):
        """Parses and decodes c records.

        epoch, record: int64 [c], earlier visits and number in manifest order. serialized, cached:
        string [c], the records and those of the reference cache. {id int64, image uint8 [c, S, S,
        3], caption string, source int32, valid bool, record int64, caption_index int32}, all [c].
        Raises in graph where a record cannot be parsed or decoded.
        """
        read = self.parse_all(epoch, record, serialized)
        picture, decoded = self.picture(read.pop("encoded"))
        valid = decoded & read.pop("has_text")
        if self.reference_cache:
            index = tf.cast(read["caption_index"], tf.int64)
            reference = self.reference_cache.parse(cached[0], index)
            # A wrong reference would be worse than one candidate less.
            valid &= reference.pop("id") == read["id"]
            read |= reference
        return read | picture | {"valid": valid}

    def picture(self, encoded: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Image files [c] -> ({image uint8 [c, S, S, 3]}, whether each is a picture, bool [c])."""
        image, decoded = preprocess.decode_batch(encoded, self.image_size, self.pixels)
        return {"image": image}, decoded

    def no_picture(self, n: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"image": tf.zeros([n, self.image_size, self.image_size, 3], tf.uint8)}

    def without_image(self, epoch: tf.Tensor, record: tf.Tensor, serialized: tf.Tensor, *_):
        """As `read`, but for records whose image is corrupt: black and not valid."""
        read = self.parse_all(epoch, record, serialized)
        return {name: read.get(name, value) for name, value in self._blank(record).items()}

    def unreadable(self, epoch: tf.Tensor, record: tf.Tensor, *_):
        """What stands in the slots of records that `read` raises on: valid = False, id < 0.

        The id is -(record number + 1), so that `Manifest.locate` finds the record.
        """
        return self._blank(record)

    def _blank(self, record: tf.Tensor) -> dict:
        n = tf.shape(record)[0]
        blank = {
            "id": -record - 1,
            "caption": tf.fill([n], ""),
            "record": record,
            "caption_index": tf.zeros([n], tf.int32),
            **self.no_picture(n),
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
            read = self._parse(features, own, shard, record, epoch)
            merged = {
                name: tf.where(source == index, value, merged.get(name, value))
                for name, value in read.items()
            }
        return merged | {"source": source, "record": record}

    def _shard_of(self, record: tf.Tensor) -> tf.Tensor:
        return tf.searchsorted(tf.constant(self._first_records), record, side="right") - 1

    def _parse(self, source: Source, serialized, shard, record, epoch) -> dict:
        wanted = ("image", "captions", "id" if source.id else "key")
        read = fields.in_graph(source, serialized, wanted)
        # The record's own id, or a hash of source and key (or of file and index).
        record_id, key = read.get("id"), read.get("key")
        if not source.id and not source.key:
            names = tf.gather(tf.constant(self._shard_names), shard)
            index = record - tf.gather(tf.constant(self._first_records, tf.int64), shard)
            index += tf.gather(tf.constant(self._shard_starts, tf.int64), shard)
            key = tf.strings.join([names, tf.strings.as_string(index)], "#")
        if not source.id:
            record_id = hashed_id(source.name, key)
        caption, index, has_text = self._one_caption(read["captions"], record_id, epoch)
        return {
            "id": record_id,
            "encoded": read["image"],
            "caption": caption,
            "caption_index": tf.cast(index, tf.int32),
            "has_text": has_text,
        }

    def _one_caption(self, captions: tf.RaggedTensor, record_id, epoch):
        """A non-empty caption of each record, its index, whether there is one: all [c]."""
        flat = captions.flat_values
        places = tf.where(fields.are_texts(flat))[:, 0]
        rows = tf.gather(captions.value_rowids(), places)
        n = tf.math.unsorted_segment_sum(tf.ones_like(rows), rows, captions.nrows())
        visit = [
            tf.fill(tf.shape(n), str(self.seed)),
            tf.strings.as_string(record_id),
            tf.strings.as_string(epoch),
        ]
        draw = tf.strings.to_hash_bucket_fast(tf.strings.join(visit, "/"), 2**31 - 1)
        pick = draw % tf.maximum(n, 1)
        # One empty caption more, for records that have none.
        none = tf.size(flat, tf.int64)
        places = tf.concat([places, [none]], 0)
        first = tf.cumsum(n, exclusive=True)
        place = tf.gather(places, tf.where(n > 0, first + pick, tf.size(places, tf.int64) - 1))
        index = tf.where(n > 0, place - captions.row_starts(), 0)
        return tf.gather(tf.concat([flat, [""]], 0), place), index, n > 0


ZIMG = "learner_zimg"  # in place of `image` in a super-batch


def embedded(manifest: Manifest, cache: ReferenceCache) -> Manifest:
    """The same records as the cache of them holds: id, embedding, captions."""
    cache.check_manifest(manifest)
    sources = tuple(
        Source(s.name, image="zimg", captions=CAPTIONS, id="id", weight=s.weight)
        for s in manifest.sources
    )
    shards = tuple(
        Shard(path, shard.records, shard.source)
        for path, shard in zip(cache.shard_paths, manifest.shards, strict=True)
    )
    return dataclasses.replace(manifest, sources=sources, shards=shards)


class EmbeddedReader(RecordReader):
    """RecordReader of an `embedded` manifest: `learner_zimg` float32 [c, d] in place of `image`."""

    def __init__(
        self,
        manifest: Manifest,
        image_cache: ReferenceCache,
        seed: int,
        reference_cache: ReferenceCache | None = None,
    ):
        super().__init__(manifest, 1, seed, reference_cache=reference_cache)
        self._image_cache = image_cache

    def picture(self, encoded: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        zimg = self._image_cache.floats(encoded)  # of unit norm but for its 16 bits
        return {ZIMG: tf.math.l2_normalize(zimg, axis=1)}, tf.reduce_any(zimg != 0, axis=1)

    def no_picture(self, n: tf.Tensor) -> dict[str, tf.Tensor]:
        return {ZIMG: tf.zeros([n, self._image_cache.dim])}


def _traced_once(function, dtypes) -> tf.types.experimental.PolymorphicFunction:
    """For vectors of these dtypes and any length."""
    signature = [tf.TensorSpec([None], dtype) for dtype in dtypes]
    return tf.function(function, input_signature=signature, autograph=False)


def hashed_id(source_name: str, key: tf.Tensor) -> tf.Tensor:
    """int64: 63-bit fingerprint of a source's name and a record's key (string, any shape)."""
    return tf.strings.to_hash_bucket_fast(tf.strings.join([source_name, key], ":"), 2**63 - 1)


def shard_records(manifest: Manifest, index: int, pictures: bool = True) -> Iterator[Record]:
    """Each record of a shard, in order, as training reads it; with an id and a key for each.

    Without `pictures`, those that lie in a tar are not read. A record that is no tf.train.Example
    keeps its place as `fields.UNREADABLE`.
    """
    shard = manifest.shards[index]
    for number, serialized in enumerate(_serialized(shard, pictures), start=shard.start):
        yield _record(manifest, index, number, serialized)


def _serialized(shard: Shard, pictures: bool) -> Iterator[bytes]:
    """Records are asked for several at a time: a call of TensorFlow takes as long as a small one.

    What comes before an error is given first.
    """
    file, done = in_place.records(shard, pictures), 0
    at_once = HELD_BYTES * shard.records // shard.bytes if shard.bytes else 1
    at_once = min(in_place.BATCH if shard.tar else HELD, max(1, at_once))
    try:
        for batch in file.batch(at_once).as_numpy_iterator():
            yield from batch
            done += len(batch)
    except tf.errors.OpError:
        yield from file.skip(done).as_numpy_iterator()


def _record(manifest: Manifest, index: int, number: int, serialized: bytes) -> Record:
    shard = manifest.shards[index]
    source = manifest.sources[shard.source]
    record = fields.in_python(source, serialized)
    if record == fields.UNREADABLE:
        return record
    place = f"{os.path.basename(shard.path)}#{number}".encode()
    if source.id:
        return record._replace(key=record.key or place)
    key = record.key if source.key else place
    return record._replace(key=key, id=int(hashed_id(source.name, tf.constant(key))))


def look_up(manifest: Manifest, records: Sequence[int]) -> list[Record]:
    """The records with these numbers in manifest order; UNREADABLE where one cannot be read."""
    ends = manifest.firsts[1:]

    def find(record: int) -> Record:
        index = int(np.searchsorted(ends, record, side="right"))
        if not 0 <= record < ends[-1]:
            return fields.UNREADABLE
        _, number = manifest.locate(record)
        shard = dataclasses.replace(manifest.shards[index], start=number, records=1)
        try:
            (serialized,) = in_place.records(shard).as_numpy_iterator()
        except (tf.errors.OpError, ValueError):
            return fields.UNREADABLE
        return _record(manifest, index, number, serialized)

    with futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(find, map(int, records)))


def read_captions(manifest: Manifest, limit: int) -> list[bytes]:
    """Up to `limit` distinct captions, in the manifest's order; unreadable ones are passed over."""
    captions: dict[bytes, None] = {}
    counter = Counter(f"reading captions of {manifest.name}", manifest.n_records)
    for shard in manifest.shards:
        source = manifest.sources[shard.source]
        if source.captions is None:
            captions |= dict.fromkeys(text.encode() for text in source.labels)
            continue
        file = in_place.records(shard, pictures=False)
        for serialized in counter.over(file.as_numpy_iterator()):
            found = fields.in_python(source, serialized).captions
            captions |= dict.fromkeys(filter(fields.is_text, found))
        if len(captions) >= limit:
            break
    counter.close()
    return list(captions)[:limit]
