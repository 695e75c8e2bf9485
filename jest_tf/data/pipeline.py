"""Deterministic, resumable, per-host super-batches as one tf.data pipeline.

All of it is graph, but for pictures that are read from tars (in_place.py). The lanes of a host
(lanes.py) give their shares of each step in turn. Then: chunks of records → parse, decode,
tokenize → batch.
"""

import contextlib
import dataclasses
import functools
import gc
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from jest_tf.data import order
from jest_tf.data.lanes import graph_only, lane_chunks, lane_tables
from jest_tf.data.manifest import Manifest, check_files
from jest_tf.data.records import EmbeddedReader, RecordReader, embedded
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError
from jest_tf.model_record import PixelRule

# Lanes where a config names none: enough for 8 hosts.
DEFAULT_LANES = 8
# Records decoded by one function call: it spreads the cost of the guard against bad records.
CHUNK = 16
PASSED_OVER = "passed_over"  # feature of a super-batch: numbers of the records that were


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """For tracing, whose many objects set off a long search for garbage that finds none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclasses.dataclass(frozen=True)
class InputLayout:
    """Which records make which super-batch, and which share of it this host makes.

    n_lanes: independent orders, each of which fills B / n_lanes slots; divides B, a multiple of the
    hosts, part of a run's identity; by default gcd(B, 8).
    """

    super_batch: int  # B, over all hosts and replicas
    seed: int  # of the order
    start_step: int = 0
    n_lanes: int | None = None
    input_pipeline_id: int = 0
    num_input_pipelines: int = 1
    replicas_per_pipeline: int = 1  # consecutive elements are consecutive replicas of a step
    shuffle: bool = True  # False keeps the records of each lane in manifest order
    prefilter: float = 1.0  # share of each group that is decoded, the best by the reference's cache

    @property
    def lanes(self) -> int:
        return math.gcd(self.super_batch, DEFAULT_LANES) if self.n_lanes is None else self.n_lanes

    @property
    def batch_size(self) -> int:
        """Records of an element: of one replica."""
        return self.super_batch // self.num_input_pipelines // self.replicas_per_pipeline


class Shared:
    """What pipelines of one run have in common, at all hosts and from all steps on, made once.

    Tracing is most of what a pipeline costs, and a pod's coordinator makes one for each host.
    """

    def __init__(self):
        self._made: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returned the first time."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


@_no_garbage_collection()
def super_batches(
    manifest: Manifest,
    tokenizer: Tokenizer,
    *,
    image_size: int,
    reference_cache: ReferenceCache | None = None,
    pixels: PixelRule = PixelRule(),
    image_cache: ReferenceCache | None = None,
    shared: Shared | None = None,
    **layout,
) -> tf.data.Dataset:
    """Endless super-batches, one element per replica, from `start_step` on.

    The super-batch of step k, in order over all hosts and replicas, is a function of (manifest,
    super_batch, n_lanes, seed, k): hosts and replicas only cut it. Nothing before `start_step` is
    decoded, and at most one group of shards per lane is read again. `image_cache`: embeddings that
    are read instead of pictures, see `embedded`; `shared`: of pipelines that differ in
    `input_pipeline_id` and `start_step` alone; `layout`: the fields of `InputLayout`.

    Elements {id int64 [k], image uint8 [k, S, S, 3], tokens int32 [k, n_tokens], valid bool [k],
    source int32 [k], record int64 [k], caption_index int32 [k]}, k = super_batch / hosts / replicas
    per host; record counts over the manifest. With a reference cache also reference_zimg,
    reference_ztxt float32 [k, d]; with an image cache learner_zimg float32 [k, d] instead of image.
    A record that cannot be read keeps its slot with valid = False and a black image. With a
    prefilter also passed_over int64 [k / prefilter - k], numbers of records.

    UserError: sizes that do not divide, fewer records than lanes. Files are not looked at, for a
    pod makes a pipeline per host: call `manifest.check_files` once before.
    """
    layout, shared = InputLayout(**layout), shared or Shared()
    chunks, chunk = record_chunks(manifest, layout, reference_cache, image_cache, shared)

    def reading() -> Callable:
        if image_cache:
            here = shared.once("embedded", lambda: embedded(manifest, image_cache))
            reader = EmbeddedReader(here, image_cache, layout.seed, reference_cache)
        else:
            reader = RecordReader(
                manifest, image_size, layout.seed, reference_cache=reference_cache, pixels=pixels
            )
        return _reading(chunks.element_spec, chunk, reader, tokenizer)

    read = shared.once("read", reading)
    batches = _decoded_batches(chunks, chunk, read, layout.batch_size)
    if layout.replicas_per_pipeline > 1:  # one batch is in the making; the other replicas' here
        batches = batches.prefetch(layout.replicas_per_pipeline - 1)
    options = _untuned()
    # The order is the product here; sharding is done by lanes.
    options.deterministic = True
    # The only rewriting that pays here; looking for the others takes time at every start.
    options.experimental_optimization.apply_default_optimizations = False
    options.experimental_optimization.map_and_batch_fusion = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.with_options(options)


def record_chunks(
    manifest: Manifest,
    layout: InputLayout,
    reference_cache: ReferenceCache | None = None,
    image_cache: ReferenceCache | None = None,
    shared: Shared | None = None,
) -> tuple[tf.data.Dataset, int]:
    """The order of `super_batches` before anything is decoded: cheap, to look up or to test.

    (dataset, c): elements (epoch int64, record number int64, serialized string[, cache record
    string]), all [c]; `Manifest.locate` names a record's file. With a prefilter, c of each group of
    g, and then the numbers of the others, int64 [g - c].
    """
    shared = shared or Shared()
    n_lanes, hosts, seed = layout.lanes, layout.num_input_pipelines, layout.seed
    check_layout(layout.super_batch, n_lanes, hosts, layout.replicas_per_pipeline)
    if reference_cache:
        shared.once("reference cache", lambda: reference_cache.check_manifest(manifest))
    if image_cache:
        manifest = shared.once("embedded", lambda: embedded(manifest, image_cache))
    per_lane = layout.super_batch // n_lanes
    chunk = chunk_size(math.gcd(per_lane, layout.batch_size))
    group = chunk
    if layout.prefilter < 1:
        if reference_cache is None:
            raise UserError("data.prefilter chooses by a cache: set reference.cache.")
        share = layout.prefilter
        group = round(chunk / share)
        if abs(group * share - chunk) > 1e-6:
            raise UserError(
                f"data.prefilter = {share}: of a group, {chunk} records are decoded, and {chunk} / "
                f"{share} is not a whole number. Take {chunk / group:.6g}, or 0.5."
            )
    streams = shared.once("streams", lambda: order.streams(manifest))
    pattern = order.mixture_pattern(manifest) if len(streams) > 1 else None
    lanes_here = n_lanes // hosts
    first_lane = layout.input_pipeline_id * lanes_here
    tables = lane_tables(
        streams,
        pattern,
        n_lanes,
        range(first_lane, first_lane + lanes_here),
        per_lane * layout.start_step // chunk * group,
        seed,
        layout.shuffle,
        companions=reference_cache.shard_paths if reference_cache else (),
    )

    def chunks_of(lane, tables):
        groups = lane_chunks(tables, pattern, lane, group, seed, layout.shuffle)
        return groups.map(graph_only(best)) if group > chunk else groups

    def best(*parts):
        parts = tuple(tf.ensure_shape(part, [group]) for part in parts)
        reader = RecordReader(manifest, 1, seed, reference_cache=reference_cache)
        ways = functools.partial(_pair_score, reader), lambda *_: tf.fill([1], -1.0)
        scores = tf.ensure_shape(_guarded(ways, group, *parts), [group])
        ranked = tf.argsort(scores, direction="DESCENDING", stable=True)
        kept, passed = tf.sort(ranked[:chunk]), ranked[chunk:]  # both of static size
        return *(tf.gather(part, kept) for part in parts), tf.gather(parts[1], passed)

    traced = shared.once(
        "lane", lambda: _traced(chunks_of, tf.TensorSpec([], tf.int64), tables.specs)
    )
    chunks = tf.data.Dataset.range(first_lane, first_lane + lanes_here).interleave(
        graph_only(lambda lane: traced(lane, tables)),
        cycle_length=lanes_here,
        block_length=per_lane // chunk,
        num_parallel_calls=lanes_here,  # lanes fill their first windows at the same time
        deterministic=True,
    )
    return chunks, chunk


def _traced(function: Callable, *specs) -> Callable:
    """One graph, wherever it is called: a tf.function would be traced anew for every device."""
    return tf.function(function, autograph=False).get_concrete_function(*specs)


def in_order(manifest: Manifest, tokenizer: Tokenizer, batch_size: int, **how) -> tf.data.Dataset:
    """`super_batches` in the order of the manifest; the last of an epoch goes on with the next.

    UserError: a shard is lost, or not as it was listed.
    """
    check_files(manifest)
    layout = {"super_batch": batch_size, "seed": 0, "n_lanes": 1, "shuffle": False}
    batches = super_batches(manifest, tokenizer, **layout, **how)
    return batches.take(-(-manifest.n_records // batch_size))


def check_layout(super_batch: int, n_lanes: int, hosts: int, replicas_per_host: int) -> None:
    """Raises UserError, naming the numbers, unless they divide one another."""
    replicas = f"{hosts} hosts x {replicas_per_host} replicas: every replica scores as many"
    for name, size, divisor, what in (
        ("super_batch", super_batch, n_lanes, f"n_lanes {n_lanes}: every lane fills as much of it"),
        ("n_lanes", n_lanes, hosts, f"the {hosts} hosts: every host reads as many lanes"),
        ("super_batch", super_batch, hosts * replicas_per_host, replicas),
    ):
        if divisor < 1 or size % divisor:
            raise UserError(f"{name} {size} is not divisible by {what}. Change one of them.")


def chunk_size(divides: int) -> int:
    """The largest divisor of `divides` up to CHUNK: how many records are decoded per call."""
    return max(size for size in range(1, CHUNK + 1) if divides % size == 0)


def _reading(specs, chunk: int, reader: RecordReader, tokenizer: Tokenizer) -> Callable:
    """Chunk of serialized records -> decoded and tokenized; the largest graph of a pipeline."""

    def read(*parts):
        n_parts = 4 if reader.reference_cache else 3
        parts, passed = parts[:n_parts], parts[n_parts:]
        epoch, record, serialized, *cached = (tf.ensure_shape(part, [chunk]) for part in parts)
        # Not guarded: a file that cannot be read is no bad record.
        parts = epoch, record, reader.completed(record, serialized), *cached
        ways = reader.read, reader.without_image, reader.unreadable
        fields = _guarded(ways, chunk, *parts)
        if passed:
            fields[PASSED_OVER] = passed[0]  # [group - chunk]
        tokens = tokenizer(fields.pop("caption"))
        return fields | {"tokens": tf.ensure_shape(tokens, [chunk, tokenizer.n_tokens])}

    return _traced(read, *specs)


def _decoded_batches(
    chunks: tf.data.Dataset, chunk: int, read: Callable, batch_size: int
) -> tf.data.Dataset:
    """Chunks of serialized records → batches of decoded and tokenized ones, one batch ahead.

    The fused map-and-batch writes each chunk to its place: nothing else is as large as a batch.
    """

    def joined(parts):
        passed = parts.pop(PASSED_OVER, None)
        joined = {
            name: tf.reshape(value, [batch_size, *value.shape[2:]]) for name, value in parts.items()
        }
        if passed is not None:
            joined[PASSED_OVER] = tf.reshape(passed, [passed.shape.num_elements()])
        return joined

    chunks = chunks.map(
        graph_only(lambda *parts: read(*parts)),
        num_parallel_calls=os.cpu_count(),
        deterministic=True,
    )
    batches = chunks.batch(batch_size // chunk, drop_remainder=True)
    return batches.map(graph_only(joined))


def _guarded(ways: tuple[Callable, ...], n: int, *parts: tf.Tensor) -> dict | tf.Tensor:
    """The first of `ways` to read n records; for each that it raises on, the first that does not.

    All at once first; only where that raises, one by one: a dataset of one element is the only
    thing in a graph that catches errors.
    """
    parts = tuple(tf.ensure_shape(part, [n]) for part in parts)

    def attempt(read, *parts):
        return tf.data.Dataset.from_tensors(parts).map(graph_only(read)).ignore_errors()

    def one_by_one(*parts):
        found = [attempt(way, *parts) for way in ways]
        return functools.reduce(tf.data.Dataset.concatenate, found).take(1)

    singles = tf.data.Dataset.from_tensors(parts).unbatch().batch(1, drop_remainder=True)
    singly = singles.flat_map(graph_only(one_by_one)).unbatch().batch(n, drop_remainder=True)
    found = attempt(ways[0], *parts).concatenate(singly).take(1)
    return found.with_options(_untuned()).get_single_element()


def _untuned() -> tf.data.Options:
    """Without the thread that tunes parallelism, for what runs at a time is known here.

    An iterator that is dropped wakes that thread before it says why. On a busy machine the thread
    then sleeps on, for up to a minute, and the program waits for it.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def _pair_score(reader: RecordReader, epoch: tf.Tensor, record: tf.Tensor, serialized, cached):
    """Cosine of each pair by the reader's cache, float32 [c]; -1 of unusable records."""
    read = reader.parse_all(epoch, record, serialized)
    index = tf.cast(read["caption_index"], tf.int64)
    reference = reader.reference_cache.parse(cached, index)
    cosine = tf.reduce_sum(reference["reference_zimg"] * reference["reference_ztxt"], axis=1)
    usable = read["has_text"] & (reference["id"] == read["id"]) & tf.math.is_finite(cosine)
    return tf.where(usable, cosine, -1.0)
