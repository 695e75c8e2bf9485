"""Deterministic, resumable, per-host super-batches as one graph-only tf.data pipeline.

Per lane: segments → groups → windows of serialized records, permuted. Lanes of a host in turn give
their share of each step. Then: chunks of records → parse, decode → batch → tokenize.
"""

import dataclasses
import itertools
import math

import tensorflow as tf

from jest_tf.data import order
from jest_tf.data.manifest import Manifest, check_files
from jest_tf.data.order import Segment
from jest_tf.data.records import RecordReader
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError

# Lanes where a config names none: enough for 8 hosts.
DEFAULT_LANES = 8
# Records decoded by one function call: it spreads the cost of the guard against bad records.
CHUNK = 16
READ_BUFFER_BYTES = 1 << 20
# The functions below hold no Python control flow; converting them would cost seconds per pipeline.
graph_only = tf.autograph.experimental.do_not_convert


def super_batches(
    manifest: Manifest,
    tokenizer: Tokenizer,
    *,
    super_batch: int,
    image_size: int,
    seed: int,
    start_step: int = 0,
    n_lanes: int | None = None,
    input_pipeline_id: int = 0,
    num_input_pipelines: int = 1,
    replicas_per_pipeline: int = 1,
    shuffle: bool = True,
) -> tf.data.Dataset:
    """Endless super-batches, one element per replica, from `start_step` on.

    The super-batch of step k, in order over all hosts and replicas, is a function of (manifest,
    super_batch, n_lanes, seed, k): hosts and replicas only cut it. Nothing before `start_step` is
    decoded, and at most one group of shards per lane is read again.

    Args:
        super_batch: B, candidates of a step over all hosts and replicas.
        image_size: S, side of the images in pixels.
        n_lanes: independent orders of which each fills B / n_lanes slots of a step; must divide B
            and be a multiple of the hosts. Part of a run's identity. By default gcd(B, 8).
        input_pipeline_id, num_input_pipelines: this host and the number of hosts.
        replicas_per_pipeline: replicas that this host feeds; consecutive elements are consecutive
            replicas of one step.
        shuffle: False keeps each lane's records in manifest order.

    Returns:
        Elements {id int64 [k], image uint8 [k, S, S, 3], tokens int32 [k, n_tokens], valid bool
        [k], source int32 [k]}, k = super_batch / hosts / replicas per host. A record that cannot
        be read keeps its slot with valid = False and a black image.

    Raises:
        UserError: sizes that do not divide, missing or cut files, fewer records than lanes.
    """
    n_lanes = math.gcd(super_batch, DEFAULT_LANES) if n_lanes is None else n_lanes
    check_layout(super_batch, n_lanes, num_input_pipelines, replicas_per_pipeline)
    check_files(manifest)
    batch_size = super_batch // num_input_pipelines // replicas_per_pipeline
    per_lane = super_batch // n_lanes
    chunk = chunk_size(math.gcd(per_lane, batch_size))
    lanes_here = n_lanes // num_input_pipelines
    first_lane = input_pipeline_id * lanes_here
    tables = _lane_tables(manifest, n_lanes, per_lane * start_step, seed, shuffle)
    chunks = tf.data.Dataset.range(first_lane, first_lane + lanes_here).interleave(
        graph_only(lambda lane: _lane(manifest, tables, lane, chunk, seed, shuffle)),
        cycle_length=lanes_here,
        block_length=per_lane // chunk,
    )
    reader = RecordReader(manifest, image_size, seed)
    batches = _decoded_batches(chunks, chunk, reader, tokenizer, batch_size)
    keep = ("id", "image", "tokens", "valid", "source")
    batches = batches.map(graph_only(lambda batch: {name: batch[name] for name in keep}))
    return batches.prefetch(replicas_per_pipeline).with_options(_options())


def evaluation_batches(
    manifest: Manifest, tokenizer: Tokenizer, batch_size: int, image_size: int
) -> tf.data.Dataset:
    """Every record once, in manifest order, with its first caption; the last batch is padded.

    Returns:
        Elements as of `super_batches`, and `label` int32 [k] (-1 where there is none). Padding has
        valid = False and id = -1.
    """
    check_files(manifest)
    shards = [entry for stream in order.streams(manifest) for entry in stream]
    segments = _SegmentTable(order.lanes(shards, n_lanes=1))
    everything = tf.data.Dataset.range(segments.n_segments[0])
    records = segments.read(everything, cycle_length=1)
    padding = -(-manifest.n_records // batch_size) * batch_size - manifest.n_records
    padded = tf.data.Dataset.from_tensors((b"", tf.constant(-1, tf.int64))).repeat(padding)
    chunk = chunk_size(batch_size)
    chunks = records.concatenate(padded).batch(chunk, drop_remainder=True)
    chunks = chunks.map(graph_only(lambda *parts: (*parts, tf.zeros_like(parts[1]))))
    reader = RecordReader(manifest, image_size, draw_caption=False)
    batches = _decoded_batches(chunks, chunk, reader, tokenizer, batch_size)
    return batches.prefetch(1).with_options(_options())


def check_layout(super_batch: int, n_lanes: int, hosts: int, replicas_per_host: int) -> None:
    """Raises UserError, naming the numbers, unless they divide one another."""
    if n_lanes < 1 or super_batch % n_lanes:
        raise UserError(
            f"super_batch {super_batch} is not divisible by n_lanes {n_lanes}: every lane fills an "
            "equal share of a step. Change data.n_lanes or super_batch."
        )
    if n_lanes % hosts:
        raise UserError(
            f"n_lanes {n_lanes} is not divisible by the {hosts} hosts: every host reads an equal "
            "number of lanes. Set data.n_lanes to a multiple of the largest number of hosts."
        )
    if super_batch % (hosts * replicas_per_host):
        raise UserError(
            f"super_batch {super_batch} is not divisible by {hosts} hosts x {replicas_per_host} "
            "replicas: every replica scores an equal share."
        )


def chunk_size(divides: int) -> int:
    """The largest divisor of `divides` up to CHUNK: how many records are decoded per call."""
    return max(size for size in range(1, CHUNK + 1) if divides % size == 0)


class _SegmentTable:
    """Segments of a stream, all lanes, as tensors: so one traced function serves every lane."""

    def __init__(self, lanes: list[list[Segment]]):
        segments = [segment for lane in lanes for segment in lane]
        self.n_segments = [len(lane) for lane in lanes]
        self.paths = tf.constant([segment.path for segment in segments])
        self.starts = tf.constant([segment.start for segment in segments], tf.int64)
        self.counts = tf.constant([segment.records for segment in segments], tf.int64)
        self.firsts = tf.constant([segment.first for segment in segments], tf.int64)
        ends = list(itertools.accumulate(self.n_segments))
        self.lane_begins = tf.constant([0] + ends[:-1], tf.int64)
        self.lane_sizes = tf.constant(self.n_segments, tf.int64)

    def read(self, members: tf.data.Dataset, cycle_length: int) -> tf.data.Dataset:
        """(serialized, record number) of the segments with these indices, interleaved."""

        def read_segment(member):
            file = tf.data.TFRecordDataset(self.paths[member], buffer_size=READ_BUFFER_BYTES)
            first, count = self.firsts[member], self.counts[member]
            numbers = tf.data.Dataset.range(first, first + count)
            return tf.data.Dataset.zip(file.skip(self.starts[member]).take(count), numbers)

        return members.interleave(
            graph_only(read_segment), cycle_length=cycle_length, block_length=CHUNK
        )


@dataclasses.dataclass(frozen=True)
class _StreamTables:
    """One stream of a manifest: its segments, and where each lane starts in it (int64 [L])."""

    segments: _SegmentTable
    epoch: tf.Tensor
    group: tf.Tensor
    offset: tf.Tensor


@dataclasses.dataclass(frozen=True)
class _LaneTables:
    """All that the lanes need to know. `given`: records that each lane gave before the start."""

    streams: list[_StreamTables]
    given: int


def _lane_tables(
    manifest: Manifest, n_lanes: int, given: int, seed: int, shuffle: bool
) -> _LaneTables:
    """Where every lane starts in every stream after it has given `given` records."""
    streams = [order.lanes(stream, n_lanes) for stream in order.streams(manifest)]
    given_by = [[given] for _ in range(n_lanes)]
    if len(streams) > 1:
        pattern = order.mixture_pattern(manifest)
        given_by = [
            order.mixture_counts(pattern, seed, lane, given, shuffle) for lane in range(n_lanes)
        ]
    tables = []
    for stream, lanes in enumerate(streams):
        starts = [
            order.position(segments, seed, stream, lane, int(given_by[lane][stream]), shuffle)
            for lane, segments in enumerate(lanes)
        ]
        columns = (
            tf.constant([getattr(start, name) for start in starts], tf.int64)
            for name in ("epoch", "group", "offset")
        )
        tables.append(_StreamTables(_SegmentTable(lanes), *columns))
    return _LaneTables(tables, given)


def _lane(
    manifest: Manifest, tables: _LaneTables, lane: tf.Tensor, chunk: int, seed: int, shuffle: bool
) -> tf.data.Dataset:
    """(serialized, record, epoch), each [chunk]: a lane's records from its start on, endlessly."""
    windows = [
        _windows(stream, number, lane, seed, shuffle)
        for number, stream in enumerate(tables.streams)
    ]
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


def _windows(
    tables: _StreamTables, stream: int, lane: tf.Tensor, seed: int, shuffle: bool
) -> tf.data.Dataset:
    """(serialized, record, epoch), each [w]: a lane's endless windows of one stream, permuted."""
    segments, size = tables.segments, order.WINDOW_RECORDS
    n_segments, begin = segments.lane_sizes[lane], segments.lane_begins[lane]
    n_groups = -(-n_segments // order.GROUP_SEGMENTS)
    first_visit = tables.epoch[lane] * n_groups + tables.group[lane]

    def group(visit):
        epoch, number = visit // n_groups, visit % n_groups
        skipped = tf.where(visit == first_visit, tables.offset[lane], 0)
        members = order.segment_order(n_segments, seed, stream, lane, epoch, shuffle)
        members = members[number * order.GROUP_SEGMENTS : (number + 1) * order.GROUP_SEGMENTS]
        records = segments.read(
            tf.data.Dataset.from_tensor_slices(begin + members),
            cycle_length=order.GROUP_SEGMENTS if shuffle else 1,
        )
        windows = records.skip(skipped // size * size).batch(size).enumerate(skipped // size)

        def permuted(window, batch):
            serialized, record = batch
            slots = tf.range(tf.size(record, tf.int64))
            if shuffle:
                key = order.fold(seed, order.WINDOW, stream, lane, epoch, number, window)
                slots = order.permutation(tf.size(slots), key)
            slots = slots[tf.where(window == skipped // size, skipped % size, 0) :]
            epochs = tf.fill(tf.shape(slots), epoch)
            return tf.gather(serialized, slots), tf.gather(record, slots), epochs

        return windows.map(graph_only(permuted))

    return tf.data.Dataset.counter(first_visit).flat_map(graph_only(group)).prefetch(1)


def _decoded_batches(
    chunks: tf.data.Dataset, chunk: int, reader: RecordReader, tokenizer: Tokenizer, batch_size: int
) -> tf.data.Dataset:
    """Chunks of serialized records → batches of `batch_size` decoded and tokenized ones."""
    chunks = chunks.map(
        graph_only(lambda *parts: _read_guarded(reader, chunk, *parts)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )

    def finish(parts):
        batch = {
            name: tf.reshape(value, tf.TensorShape([batch_size]) + value.shape[2:])
            for name, value in parts.items()
        }
        tokens = tokenizer(batch.pop("caption"))
        batch["tokens"] = tf.ensure_shape(tokens, [batch_size, tokenizer.n_tokens])
        return batch

    return chunks.batch(batch_size // chunk, drop_remainder=True).map(graph_only(finish))


def _read_guarded(reader: RecordReader, n: int, serialized, record, epoch) -> dict:
    """`reader.read`, where records that raise are replaced by invalid ones in the same slots.

    All n at once first; only where that raises, one by one. No Python runs: a dataset of one
    element is the only thing in the graph that catches errors.
    """
    parts = (
        tf.ensure_shape(serialized, [n]), tf.ensure_shape(record, [n]), tf.ensure_shape(epoch, [n])
    )  # fmt: skip

    def attempt(read, *parts):
        return tf.data.Dataset.from_tensors(parts).map(graph_only(read)).ignore_errors()

    def one_by_one(*parts):
        ways = attempt(reader.read, *parts).concatenate(attempt(reader.without_image, *parts))
        return ways.concatenate(attempt(reader.unreadable, *parts)).take(1)

    singles = tf.data.Dataset.from_tensors(parts).unbatch().batch(1, drop_remainder=True)
    singly = singles.flat_map(graph_only(one_by_one)).unbatch().batch(n, drop_remainder=True)
    return attempt(reader.read, *parts).concatenate(singly).take(1).get_single_element()


def _options() -> tf.data.Options:
    options = tf.data.Options()
    # The order is the product here; sharding is done by lanes.
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
