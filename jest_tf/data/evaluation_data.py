"""Evaluation data: every record once, with all of its captions and its label."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from jest_tf.data import in_place
from jest_tf.data.fields import in_graph, is_text
from jest_tf.data.lanes import graph_only
from jest_tf.data.manifest import Manifest, Source, check_files
from jest_tf.data.preprocess import decode_all
from jest_tf.data.units import in_order
from jest_tf.errors import UserError, explaining
from jest_tf.model_record import PixelRule

LABEL_BATCH = 1024
READ = ("image", "captions", "label")
_LABELS: dict[str, np.ndarray] = {}


class Batch(NamedTuple):
    """k readable records; those of a source without captions have none."""

    encoded: list[bytes]  # k image files
    images: np.ndarray  # uint8 [k, S, S, 3]
    captions: list[list[str]]
    labels: np.ndarray  # int64 [k], -1 without
    rows: np.ndarray  # int64 [k], their numbers in the order of the manifest


class EvaluationData:
    """Reads a manifest in file order, for evaluation; n_skipped: unreadable in the last pass."""

    def __init__(self, manifest: Manifest, decode_size: int, pixels: PixelRule = PixelRule()):
        check_files(manifest)
        self.manifest = manifest
        self.decode_size, self.pixels = decode_size, pixels
        self.n_skipped = 0

    @property
    def label_texts(self) -> tuple[str, ...]:
        """Text of each class in label order; none where no source knows them, or two disagree."""
        with contextlib.suppress(UserError):
            return class_texts(self.manifest.sources)
        return ()

    def labels(self) -> np.ndarray:
        """int64 [n]: the label of every record, readable or not; -1 where it has none."""
        if self.manifest.fingerprint not in _LABELS:
            found = np.full([self.manifest.n_records], -1)
            for number, source in enumerate(self.manifest.sources):
                records = _serialized(self.manifest, number).batch(LABEL_BATCH)
                parse = functools.partial(_parse, source, wanted=("label",))
                label = graph_only(lambda rows, batch, parse=parse: (rows, parse(batch)["label"]))
                labels = records.map(label)
                for rows, of_batch in self._read(source, labels.prefetch(1)):
                    found[rows.numpy()] = of_batch.numpy()
            _LABELS.clear()  # one set is enough: it is read again at the next step
            _LABELS[self.manifest.fingerprint] = found
        return _LABELS[self.manifest.fingerprint].copy()

    def batches(self, batch_size: int, rows: np.ndarray | None = None) -> Iterator[Batch]:
        """All readable records, or those of `rows` (ascending). UserError: corrupt files."""
        self.n_skipped = 0
        for number, source in enumerate(self.manifest.sources):
            asked = None if rows is None else tuple(rows.tolist())
            # Iterated anew each time; built once, because a run evaluates thousands of times
            # and each graph takes a second to build and memory that is slow to come back.
            records = _parsed(self.manifest, number, batch_size, asked)
            with ThreadPoolExecutor(1) as thread:  # the next is decoded while one is used
                decode = functools.partial(self._readable, source)
                yield from in_order(thread, decode, self._read(source, records), ahead=2)

    def _read(self, source: Source, records: tf.data.Dataset) -> Iterator[dict]:
        with explaining(
            tf.errors.OpError,
            f"{self.manifest.name}: source {source.name!r} cannot be read: {{error}}. Restore its "
            "files, or prepare the set again.",
        ):
            yield from records

    def _readable(self, source: Source, fields: dict) -> Batch:
        images, ok = (t.numpy() for t in _decoder(self.decode_size, self.pixels)(fields["image"]))
        self.n_skipped += int(np.count_nonzero(~ok))
        captions = [[] for _ in range(np.count_nonzero(ok))]
        if source.captions:
            written = fields["captions"].to_list()
            captions = [
                [caption.decode("utf-8", "ignore") for caption in of_one if is_text(caption)]
                for of_one, is_ok in zip(written, ok, strict=True)
                if is_ok
            ]
        encoded, labels, rows = (fields[name].numpy()[ok] for name in ("image", "label", "rows"))
        return Batch(encoded.tolist(), images[ok], captions, labels, rows)


def class_texts(sources: Sequence[Source]) -> tuple[str, ...]:
    """Text of each class in label order, as far as the sources know them.

    UserError: a label is another class in one source than in another.
    """
    most = max(sources, key=lambda source: len(source.labels))
    for source in sources:
        for label, (text, other) in enumerate(zip(source.labels, most.labels, strict=False)):
            if text != other:
                raise UserError(
                    f"the sources {source.name!r} and {most.name!r} number their classes "
                    f"differently: label {label} is {text!r} in one and {other!r} in the other. "
                    "One classifier cannot be measured on both: prepare one set and name parts of "
                    "it (docs/your_data.md), or name data whose classes have one order."
                )
    return most.labels


@functools.lru_cache(maxsize=4)
def _decoder(decode_size: int, pixels: PixelRule) -> Callable:
    """string [n] -> (images, ok). For Python: `Dataset.map` would build its data sets anew."""
    signature = [tf.TensorSpec([None], tf.string)]
    return tf.function(
        lambda encoded: decode_all(encoded, decode_size, pixels), signature, autograph=False
    )


@functools.lru_cache(maxsize=16)
def _parsed(
    manifest: Manifest, number: int, batch_size: int, rows: tuple[int, ...] | None
) -> tf.data.Dataset:
    """The records of one source of a manifest, in batches of fields."""
    source = manifest.sources[number]
    records = _serialized(manifest, number)
    if rows is not None:
        is_asked = np.zeros([manifest.n_records], bool)
        is_asked[list(rows)] = True
        is_asked = tf.constant(is_asked)
        records = records.filter(graph_only(lambda row, _: is_asked[row]))
    completed = in_place.Completer(manifest)

    def fields(rows: tf.Tensor, batch: tf.Tensor) -> dict:
        return _parse(source, completed(rows, batch)) | {"rows": rows}

    return records.batch(batch_size).map(graph_only(fields)).prefetch(1)


def _serialized(manifest: Manifest, number: int) -> tf.data.Dataset:
    """(row int64, record) of one source, shard after shard; rows count over the manifest."""
    shards = [
        (shard.path, shard.start, shard.records, at)
        for shard, at in zip(manifest.shards, manifest.firsts, strict=False)
        if shard.source == number
    ]
    paths, *places = map(list, zip(*shards, strict=True))
    places = [tf.constant(column, tf.int64) for column in places]

    def records(path, start, n, at) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(path).skip(start).take(n).enumerate(at)

    return tf.data.Dataset.from_tensor_slices((paths, *places)).flat_map(graph_only(records))


def _parse(source: Source, serialized: tf.Tensor, wanted: tuple[str, ...] = READ) -> dict:
    read = in_graph(source, serialized, wanted)
    if not source.label:
        read["label"] = tf.fill(tf.shape(serialized), tf.constant(-1, tf.int64))
    return read
