"""Lanes as tf.data graphs: segments → groups → windows of serialized records, permuted.

What is read when is decided in order.py; here it is read, without Python at run time.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from jest_tf.data import order
from jest_tf.data.order import Segment

READ_BUFFER_BYTES = 1 << 20
# Records taken from one segment before the next one's turn.
BLOCK = 16
# The functions below hold no Python control flow; converting them would cost seconds per pipeline.
graph_only = tf.autograph.experimental.do_not_convert


class Segments(NamedTuple):
    """Segments of all lanes of a stream, as tensors, so one traced function serves every lane.

    companions: (files, starts) to be read along with the segments, or empty: of a reference cache,
    with one record for each of the shard's own, in the same order.
    """

    paths: tf.Tensor
    starts: tf.Tensor
    counts: tf.Tensor
    firsts: tf.Tensor
    companions: tuple[tf.Tensor, ...]
    lane_begins: tf.Tensor  # [L]
    lane_sizes: tf.Tensor  # [L]

    @classmethod
    def of(cls, lanes: list[list[Segment]], companions: Sequence[str] = ()) -> "Segments":
        """The segments of each lane; companions: file per shard of the manifest."""
        segments, sizes = [s for lane in lanes for s in lane], [len(lane) for lane in lanes]

        def column(name: str) -> tf.Tensor:
            return tf.constant([getattr(s, name) for s in segments], tf.int64)

        beside = ()
        if companions:
            files = tf.constant([companions[s.shard] for s in segments])
            beside = files, column("shard_start")
        return cls(
            paths=tf.constant([s.path for s in segments]),
            starts=column("start"),
            counts=column("records"),
            firsts=column("first"),
            companions=beside,
            lane_begins=tf.constant(list(itertools.accumulate(sizes, initial=0))[:-1], tf.int64),
            lane_sizes=tf.constant(sizes, tf.int64),
        )

    def read(self, members: tf.data.Dataset, cycle_length: int) -> tf.data.Dataset:
        """(record number, serialized[, companion]) of these segments' records, interleaved."""

        def read_segment(member):
            first, count = self.firsts[member], self.counts[member]
            parts = [
                tf.data.Dataset.range(first, first + count),
                _file(self.paths[member]).skip(self.starts[member]),
            ]
            if self.companions:
                path, start = (column[member] for column in self.companions)
                parts.append(_file(path).skip(start))
            return tf.data.Dataset.zip(*parts)

        return members.interleave(
            graph_only(read_segment), cycle_length=cycle_length, block_length=BLOCK
        )


class StreamTables(NamedTuple):
    """One stream of a manifest: segments of this host's L lanes, and where each starts (int64 [L]).

    The keys are seeds int64 [L, 2] of each lane's draws, as constants: deriving them in the graph
    would double the time that a pipeline takes to start.
    """

    segments: Segments
    segment_keys: tf.Tensor
    window_keys: tf.Tensor
    epoch: tf.Tensor
    group: tf.Tensor
    offset: tf.Tensor


class LaneTables(NamedTuple):
    """A host's lanes."""

    streams: tuple[StreamTables, ...]
    given: tf.Tensor  # records that each gave before the start
    first: tf.Tensor  # number of the first lane

    @property
    def specs(self) -> "LaneTables":
        """TensorSpecs of these tables, whatever the number of lanes and segments."""
        return tf.nest.map_structure(
            lambda x: tf.TensorSpec([None] * (x.shape.rank > 0) + x.shape[1:], x.dtype), self
        )


def _file(path: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(path, buffer_size=READ_BUFFER_BYTES)


def lane_tables(
    streams: list[order.Stream],
    pattern: np.ndarray | None,
    n_lanes: int,
    here: range,
    given: int,
    seed: int,
    shuffle: bool,
    companions: Sequence[str] = (),
) -> LaneTables:
    """Where each of the lanes `here` starts in every stream after it has given `given` records.

    pattern: see `order.mixture_pattern`; None with one stream.
    """
    given_by = [[given] for _ in here]
    if pattern is not None:
        given_by = [order.mixture_counts(pattern, seed, lane, given, shuffle) for lane in here]
    tables = []
    for number, stream in enumerate(streams):
        lanes = order.lanes(stream, n_lanes, here)
        keys = [order.lane_keys(tag, seed, number, here) for tag in (order.SEGMENTS, order.WINDOW)]
        starts = [
            order.position(segments, keys[0][lane], int(given_by[lane][number]), shuffle)
            for lane, segments in enumerate(lanes)
        ]
        columns = (tf.constant(column, tf.int64) for column in zip(*starts, strict=True))
        tables.append(StreamTables(Segments.of(lanes, companions), *keys, *columns))
    scalars = (tf.constant(value, tf.int64) for value in (given, here.start))
    return LaneTables(tuple(tables), *scalars)


def lane_chunks(
    tables: LaneTables,
    pattern: np.ndarray | None,
    lane: tf.Tensor,
    chunk: int,
    seed: int,
    shuffle: bool,
) -> tf.data.Dataset:
    """A lane's records from its start on, endlessly.

    Elements (epoch int64, record number int64, serialized string[, companion string]), [chunk].
    """
    windows = [_windows(stream, lane - tables.first, shuffle) for stream in tables.streams]
    if pattern is None:
        return windows[0].rebatch(chunk, drop_remainder=True)

    def choices(period):
        return tf.data.Dataset.from_tensor_slices(
            order.mixture_choice(pattern, seed, lane, period, shuffle)
        )

    periods = tf.data.Dataset.counter(tables.given // order.MIXTURE_PERIOD)
    choice = periods.flat_map(graph_only(choices)).skip(tables.given % order.MIXTURE_PERIOD)
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
