"""Data whose pictures are replaced by the embeddings of a frozen tower: a cache is read, no shard.

The cache keeps the captions too. Records, their order and the captions drawn are the shards'.
"""

import dataclasses

import tensorflow as tf

from jest_tf.data.manifest import Manifest, Shard, Source
from jest_tf.data.records import RecordReader
from jest_tf.data.reference_cache import CAPTIONS, ReferenceCache

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
