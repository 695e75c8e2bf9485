"""Passing over the worst of each group of records before they are decoded, by a reference's cache.

The cosine of a cached pair costs nothing beside its picture. Groups follow a lane's order, so what
is passed over is a function of (manifest, seed, step) and of the cache alone.
"""

import tensorflow as tf

from jest_tf.data.records import RecordReader
from jest_tf.errors import UserError

PASSED_OVER = "passed_over"  # feature of a super-batch: numbers of the records that were


def group_size(chunk: int, share: float) -> int:
    """Records of which `chunk` are decoded; UserError: the share is none of whole records."""
    group = round(chunk / share)
    if abs(group * share - chunk) > 1e-6:
        raise UserError(
            f"data.prefilter = {share}: of a group, {chunk} records are decoded, and {chunk} / "
            f"{share} is not a whole number. Take {chunk / group:.6g}, or 0.5."
        )
    return group


def score(reader: RecordReader, epoch: tf.Tensor, record: tf.Tensor, serialized, cached):
    """Cosine of each pair by the reader's cache, float32 [c]; -1 of unusable records."""
    read = reader.parse_all(epoch, record, serialized)
    index = tf.cast(read["caption_index"], tf.int64)
    reference = reader.reference_cache.parse(cached, index)
    cosine = tf.reduce_sum(reference["reference_zimg"] * reference["reference_ztxt"], axis=1)
    usable = read["has_text"] & (reference["id"] == read["id"]) & tf.math.is_finite(cosine)
    return tf.where(usable, cosine, -1.0)


def best(scores: tf.Tensor, chunk: int, parts: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
    """The parts [g] of the `chunk` best, in their order, and the numbers of the others' records."""
    ranked = tf.argsort(scores, direction="DESCENDING", stable=True)
    kept, passed = tf.sort(ranked[:chunk]), ranked[chunk:]  # both of static size
    return *(tf.gather(part, kept) for part in parts), tf.gather(parts[1], passed)
