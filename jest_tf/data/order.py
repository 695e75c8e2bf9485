"""Which record stands in which slot of which step: arithmetic on counts, no state, no reading.

The records of a manifest, shard after shard, form a line that is cut into `n_lanes` equal ranges.
Lane l fills slots [l*B/L, (l+1)*B/L) of every super-batch from its range alone, so hosts that read
other lanes change nothing. An epoch of a lane is a stateless permutation of its segments (a segment
= a lane's part of one shard), taken in groups; the records of a group are interleaved, cut into
windows, and permuted inside each window. A draw depends on (seed, stream, lane, epoch, …) only.
"""

import bisect
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from jest_tf.data.manifest import Manifest, Shard
from jest_tf.errors import UserError

# Segments read side by side; their records share windows.
GROUP_SEGMENTS = 4
# Records of a lane that are held (still encoded) to be permuted: the memory price of shuffling.
WINDOW_RECORDS = 1024
# A mixture's shares are met exactly over this many consecutive records of a lane.
MIXTURE_PERIOD = 1000
SEGMENTS, WINDOW, MIXTURE = 1, 2, 3  # tags that keep the draws apart


@dataclasses.dataclass(frozen=True)
class Segment:
    """`records` records of a shard from record `start` of the file on, all in one lane."""

    path: str
    start: int
    records: int
    first: int  # number of the first one in manifest order
    shard: int
    shard_start: int  # index of the first one in the manifest's shard


class Stream(NamedTuple):
    """A part of a manifest that is shuffled for itself.

    shards: (index, number of its first record, shard). ends: records up to the end of each.
    """

    shards: list[tuple[int, int, Shard]]
    ends: list[int]


def streams(manifest: Manifest) -> list[Stream]:
    """One stream, or one per weighted source."""
    firsts = manifest.firsts.tolist()
    numbered = [(i, firsts[i], shard) for i, shard in enumerate(manifest.shards)]
    parts = [numbered]
    if manifest.sources[0].weight is not None:
        n_sources = len(manifest.sources)
        parts = [[entry for entry in numbered if entry[2].source == s] for s in range(n_sources)]
    return [Stream(part, np.cumsum([s.records for _, _, s in part]).tolist()) for part in parts]


def lanes(stream: Stream, n_lanes: int, here: range | None = None) -> list[list[Segment]]:
    """Cuts a stream's records into `n_lanes` equal ranges; the segments of those `here`, or all."""
    shards, ends = stream
    total = ends[-1]
    if total < n_lanes:
        raise UserError(
            f"a data source ({shards[0][2].path} …) holds {total} record(s), fewer than the "
            f"{n_lanes} lanes of the input. Use more data, or --config.data.n_lanes={total}."
        )
    result = []
    for lane in range(n_lanes) if here is None else here:
        begin, end = (cut * total // n_lanes for cut in (lane, lane + 1))
        segments = []
        for entry in range(bisect.bisect_right(ends, begin), bisect.bisect_left(ends, end) + 1):
            index, first, shard = shards[entry]
            skipped = begin - (ends[entry] - shard.records)
            n = min(end, ends[entry]) - begin
            if n:
                start, number = shard.start + skipped, first + skipped
                segments.append(Segment(shard.path, start, n, number, index, skipped))
            begin += n
        result.append(segments)
    return result


def fold(seed, *tags) -> tf.Tensor:
    """int64 [2]: an independent seed for each tuple of tags; seed: an int, or what `fold` gave."""
    folded = seed if tf.is_tensor(seed) else tf.constant([seed, 0], tf.int64)
    for tag in tags:
        folded = tf.random.experimental.stateless_fold_in(
            folded, tf.cast(tag, tf.int64), alg="philox"
        )
    return folded


def permutation(n, seed: tf.Tensor) -> tf.Tensor:
    """int64 [n], a stateless permutation of 0..n-1."""
    indices = tf.range(tf.cast(n, tf.int64))
    return tf.random.experimental.stateless_shuffle(indices, seed, alg="philox")


def lane_keys(tag: int, seed: int, stream: int, lanes: range) -> tf.Tensor:
    """int64 [L, 2]: `fold(seed, tag, stream, lane)` of these L lanes."""
    common = fold(seed, tag, stream)
    return tf.stack([fold(common, lane) for lane in lanes])


def segment_order(n_segments, key: tf.Tensor, epoch, shuffle: bool) -> tf.Tensor:
    """int64 [n_segments]: the order of a lane's segments in this epoch; `key` as of `lane_keys`."""
    if not shuffle:
        return tf.range(tf.cast(n_segments, tf.int64))
    return permutation(n_segments, fold(key, epoch))


def position(
    segments: Sequence[Segment], key: tf.Tensor, records: int, shuffle: bool
) -> tuple[int, int, int]:
    """(epoch, group, records into it) after `records`; `key` as for `segment_order`."""
    sizes = np.array([segment.records for segment in segments])
    epoch, rest = divmod(records, int(sizes.sum()))
    order = segment_order(len(segments), key, epoch, shuffle).numpy()
    ends = np.cumsum(np.add.reduceat(sizes[order], np.arange(0, len(order), GROUP_SEGMENTS)))
    group = int(np.searchsorted(ends, rest, side="right"))
    return epoch, group, rest - (int(ends[group - 1]) if group else 0)


def mixture_pattern(manifest: Manifest) -> np.ndarray:
    """int64 [MIXTURE_PERIOD]: stream of each record of a period, before it is permuted.

    Largest-remainder rounding of the weights; every source keeps at least one record.
    """
    weights = np.array([source.weight for source in manifest.sources], np.float64)
    exact = weights / weights.sum() * MIXTURE_PERIOD
    counts = np.maximum(np.floor(exact), 1).astype(int)
    while counts.sum() < MIXTURE_PERIOD:
        counts[np.argmax(exact - counts)] += 1
    while counts.sum() > MIXTURE_PERIOD:
        counts[np.argmax(counts - exact)] -= 1
    return np.repeat(np.arange(len(counts)), counts)


def mixture_choice(pattern: np.ndarray, seed: int, lane: int, period, shuffle: bool) -> tf.Tensor:
    """int64 [MIXTURE_PERIOD]: stream of each record of a lane's period."""
    tags = (lane, period) if shuffle else (0, 0)
    order = permutation(len(pattern), fold(seed, MIXTURE, *tags))
    return tf.gather(tf.constant(pattern, tf.int64), order)


def mixture_counts(
    pattern: np.ndarray, seed: int, lane: int, records: int, shuffle: bool
) -> np.ndarray:
    """How many of a lane's first `records` records each stream gave."""
    n_streams = int(pattern.max()) + 1
    periods, rest = divmod(records, MIXTURE_PERIOD)
    begun = mixture_choice(pattern, seed, lane, periods, shuffle).numpy()[:rest]
    return periods * np.bincount(pattern, minlength=n_streams) + np.bincount(
        begun, minlength=n_streams
    )
