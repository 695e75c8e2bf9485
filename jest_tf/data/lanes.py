"""Lanes as tf.data graphs: segments → groups → windows of serialized records, permuted.

What is read when is decided in order.py; here it is read, without Python at run time.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import tensorflow as tf

from jest_tf.data import order
from jest_tf.data.manifest import Manifest
from jest_tf.data.order import Segment

READ_BUFFER_BYTES = 1 << 20
# Records taken from one segment before the next one's turn.
BLOCK = 16
# The functions below hold no Python control flow; converting them would cost seconds per pipeline.
graph_only = tf.autograph.experimental.do_not_convert


class SegmentTable:
    """Segments of a stream, all lanes, as tensors: so one traced function serves every lane."""

    def __init__(self, lanes: list[list[Segment]], companions: Sequence[str] = ()):
        """Args:
        lanes: the segments of each lane.
        companions: per shard of the manifest, a TFRecord file with one record for each of the
            shard's own, in the same order, to be read along with them (a reference cache).
        """
        segments = [segment for lane in lanes for segment in lane]
        self.n_segments = [len(lane) for lane in lanes]
        self.paths = tf.constant([segment.path for segment in segments])
        self.starts = tf.constant([segment.start for segment in segments], tf.int64)
        self.counts = tf.constant([segment.records for segment in segments], tf.int64)
        self.firsts = tf.constant([segment.first for segment in segments], tf.int64)
        self.companions = None
        if companions:
            self.companions = tf.constant([companions[s.shard] for s in segments])
            self.companion_starts = tf.constant([s.shard_start for s in segments], tf.int64)
        ends = list(itertools.accumulate(self.n_segments))
        self.lane_begins = tf.constant([0] + ends[:-1], tf.int64)
        self.lane_sizes = tf.constant(self.n_segments, tf.int64)

    def read(self, members: tf.data.Dataset, cycle_length: int) -> tf.data.Dataset:
        """(record number, serialized[, companion]) of these segments' records, interleaved."""

        def read_segment(member):
            first, count = self.firsts[member], self.counts[member]
            parts = [
                tf.data.Dataset.range(first, first + count),
                _file(self.paths[member]).skip(self.starts[member]),
            ]
            if self.companions is not None:
                companion = _file(self.companions[member])
                parts.append(companion.skip(self.companion_starts[member]))
            return tf.data.Dataset.zip(*parts)

        return members.interleave(
            graph_only(read_segment), cycle_length=cycle_length, block_length=BLOCK
        )


@dataclasses.dataclass(frozen=True)
class StreamTables:
    """One stream of a manifest: segments of this host's L lanes, and where each starts (int64 [L]).

    The keys are seeds int64 [L, 2] of each lane's draws, as constants: deriving them in the graph
    would double the time that a pipeline takes to start.
    """

    segments: SegmentTable
    segment_keys: tf.Tensor
    window_keys: tf.Tensor
    epoch: tf.Tensor
    group: tf.Tensor
    offset: tf.Tensor


@dataclasses.dataclass(frozen=True)
class LaneTables:
    """A host's lanes: records that each gave before the start, and the number of the first lane."""

    streams: list[StreamTables]
    given: int
    first: int


def _file(path: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(path, buffer_size=READ_BUFFER_BYTES)


def lane_tables(
    manifest: Manifest,
    n_lanes: int,
    here: range,
    given: int,
    seed: int,
    shuffle: bool,
    companions: Sequence[str] = (),
) -> LaneTables:
    """Where each of the lanes `here` starts in every stream after it has given `given` records."""
    streams = [order.lanes(stream, n_lanes, here) for stream in order.streams(manifest)]
    given_by = [[given] for _ in here]
    if len(streams) > 1:
        pattern = order.mixture_pattern(manifest)
        given_by = [order.mixture_counts(pattern, seed, lane, given, shuffle) for lane in here]
    tables = []
    for stream, lanes in enumerate(streams):
        keys = [order.lane_keys(tag, seed, stream, here) for tag in (order.SEGMENTS, order.WINDOW)]
        starts = [
            order.position(segments, keys[0][lane], int(given_by[lane][stream]), shuffle)
            for lane, segments in enumerate(lanes)
        ]
        columns = (
            tf.constant([getattr(start, name) for start in starts], tf.int64)
            for name in ("epoch", "group", "offset")
        )
        tables.append(StreamTables(SegmentTable(lanes, companions), *keys, *columns))
    return LaneTables(tables, given, here.start)


def lane_chunks(
    manifest: Manifest, tables: LaneTables, lane: tf.Tensor, chunk: int, seed: int, shuffle: bool
) -> tf.data.Dataset:
    """A lane's records from its start on, endlessly.

    Elements (epoch int64, record number int64, serialized string[, companion string]), [chunk].
    """
    windows = [_windows(stream, lane - tables.first, shuffle) for stream in tables.streams]
    if len(windows) == 1:
        return windows[0].rebatch(chunk, drop_remainder=True)
    pattern = order.mixture_pattern(manifest)
    period, offset = divmod(tables.given, order.MIXTURE_PERIOD)

    def choices(period):
        return tf.data.Dataset.from_tensor_slices(
            order.mixture_choice(pattern, seed, lane, period, shuffle)
        )

    choice = tf.data.Dataset.counter(period).flat_map(graph_only(choices)).skip(offset)
    mixed = tf.data.Dataset.choose_from_datasets([w.unbatch() for w in windows], choice)
    return mixed.batch(chunk, drop_remainder=True)


def _windows(tables: StreamTables, lane: tf.Tensor, shuffle: bool) -> tf.data.Dataset:
    """A lane's endless windows of one stream, permuted: elements as of `lane_chunks`, each [w]."""
    segments, size = tables.segments, order.WINDOW_RECORDS
    n_segments, begin = segments.lane_sizes[lane], segments.lane_begins[lane]
    n_groups = -(-n_segments // order.GROUP_SEGMENTS)
    first_visit = tables.epoch[lane] * n_groups + tables.group[lane]

    def already_given(visit):
        return tf.where(visit == first_visit, tables.offset[lane], 0)

    def group(visit):
        epoch, number, given = visit // n_groups, visit % n_groups, already_given(visit)
        members = order.segment_order(n_segments, tables.segment_keys[lane], epoch, shuffle)
        members = members[number * order.GROUP_SEGMENTS : (number + 1) * order.GROUP_SEGMENTS]
        records = segments.read(
            tf.data.Dataset.from_tensor_slices(begin + members),
            cycle_length=order.GROUP_SEGMENTS if shuffle else 1,
        )
        windows = records.skip(given // size * size).batch(size).enumerate(given // size)
        return tf.data.Dataset.zip(tf.data.Dataset.from_tensors(visit).repeat(), windows)

    # Outside of `group`: inside, its graph would be optimized anew for every group of every lane.
    def permuted(visit, numbered_window):
        window, parts = numbered_window
        epoch, number, given = visit // n_groups, visit % n_groups, already_given(visit)
        slots = tf.range(tf.size(parts[0], tf.int64))
        if shuffle:
            key = order.fold(tables.window_keys[lane], epoch, number, window)
            slots = order.permutation(tf.size(slots), key)
        slots = slots[tf.where(window == given // size, given % size, 0) :]
        return tf.fill(tf.shape(slots), epoch), *(tf.gather(part, slots) for part in parts)

    # As `Dataset.counter`, without its function that would have to be traced and started.
    visits = tf.data.Dataset.range(first_visit, tf.int64.max)
    groups = visits.flat_map(graph_only(group))
    return groups.map(graph_only(permuted)).prefetch(1)
