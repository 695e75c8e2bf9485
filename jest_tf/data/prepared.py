"""The folder that `prepare` writes: shards, reports of units, the manifest."""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent import futures

import numpy as np
import tensorflow as tf

from jest_tf.data import in_place
from jest_tf.data.fields import example
from jest_tf.data.formats.files import find
from jest_tf.data.formats.pairs import Opened, Pair, Settings, encoded
from jest_tf.data.manifest import About, Manifest, Shard, Source, start_of
from jest_tf.data.records import hashed_id
from jest_tf.data.sorted_runs import SortedRuns
from jest_tf.errors import UserError, explaining
from jest_tf.files import parse_json, put_in_place, replacing, write_atomically

MAX_CLASSES = 100_000
HINTS = {"captions_not_utf8": ": they lost the bytes that are not. Save the source as UTF-8"}
NOISE = "noise.jsonl"
CLEAN = "clean"  # in a `noise` column: nothing is wrong with the pair


@dataclasses.dataclass
class Summary:
    """What became of everything that was seen."""

    records: int = 0
    shards: int = 0
    rejected: int = 0
    passed_over: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    reasons: dict[str, list] = dataclasses.field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def reject(self, key: str, reason: str) -> None:
        """Counts by kind of reason: what it says before details, with numbers left out."""
        self.rejected += 1
        kind = re.sub(r"\d[\d,.]*", "N", re.split(r": |; | \(| \[", reason)[0])[:80]
        self.reasons.setdefault(kind, [0, key, reason])[0] += 1

    def reasons_text(self) -> str:
        ranked = sorted(self.reasons.values(), key=lambda entry: -entry[0])[:8]
        return "".join(f"\n  {n:,} x {reason} (first: {key[:80]})" for n, key, reason in ranked)


def source_name(root: str, kind: str) -> str:
    """The name of the source's folder: sets of other folders get other ids."""
    name = root.rstrip("/").rpartition("/")[2]
    return name.encode("utf-8", "replace").decode() or kind


def report_name(index: int) -> str:
    return f"unit-{index:06d}.json"


def write_report(out: str, index: int, report: dict) -> None:
    """Marks a unit as done."""
    write_atomically(f"{out}/{report_name(index)}", json.dumps(report).encode())


class ShardWriter:
    """Writes the records of one unit as they come, `records_per_shard` to a file.

    shards: entries of the complete files. classes: names so far; in a shard a class is a number of
    this run's own until `finish` renumbers all by the name beside it. noise: (id, what is wrong).
    """

    def __init__(self, settings: Settings, name: str, index: int, tar: str = ""):
        self._out, self._index, self._name = settings.out, index, name
        self._per_shard = settings.records_per_shard
        self._tar = {}
        if tar:
            size = tf.io.gfile.stat(tar).length
            self._tar = {"tar": _absolute(tar), "tar_bytes": size, "tar_start": start_of(tar)}
        self._file, self._n = None, 0
        self._ids: list[int] = []
        self.shards: list[dict] = []
        self.classes: dict[str, int] = {}
        self.noise: list[tuple[int, str]] = []

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self._close()
            write_atomically(
                f"{self._out}/unit-{self._index:06d}.ids", np.array(self._ids, "<i8").tobytes()
            )
        elif self._file:
            self._file.close()

    @property
    def _path(self) -> str:
        return f"{self._out}/shard-{self._index:06d}-{len(self.shards):03d}.tfrecord"

    def write(self, records: Sequence[tuple[Pair, tuple[int, int]]]) -> None:
        """Takes records, each with its size; TensorFlow hashes the keys of many in the time of
        one."""
        keys = [encoded(pair.key) for pair, _ in records]
        ids = hashed_id(self._name, tf.constant(keys, tf.string, [len(keys)])).numpy().tolist()
        hashes = in_place.hashes(pair.image for pair, _ in records) if self._tar else ids
        for *known, (pair, size) in zip(ids, keys, hashes, records, strict=True):
            self._write(*known, pair, size)

    def _write(
        self, record_id: int, key: bytes, picture_hash: int, pair: Pair, size: tuple[int, int]
    ) -> None:
        if self._file is None:
            self._file = tf.io.TFRecordWriter(self._path + ".incomplete")
        features = {
            "id": [record_id],
            "size": size,
            "key": [key],
            "captions": pair.captions,
        }
        if pair.offset is None:
            features["image"] = [pair.image]
        else:
            features |= in_place.place(pair.image, pair.offset, picture_hash)
        if pair.label is not None:
            number = self.classes.setdefault(pair.label, len(self.classes))
            features |= {"label": [number], "cls": [pair.label.encode()]}
        if pair.noise is not None:
            features["noise"] = [pair.noise.encode()]
            self.noise.append((record_id, pair.noise))
        self._file.write(example(features))
        self._ids.append(record_id)
        self._n += 1
        if self._n == self._per_shard:
            self._close()

    def _close(self) -> None:
        if self._file is None:
            return
        self._file.close()
        path = self._path
        put_in_place(path + ".incomplete", path)
        size = tf.io.gfile.stat(path).length
        name = path.rpartition("/")[2]
        self.shards.append({"path": name, "records": self._n, "bytes": size} | self._tar)
        self._file, self._n = None, 0


def finish(settings: Settings, name: str, opened: Opened, say: Callable[[str], None]) -> Summary:
    """Writes manifest.json and rejected.jsonl, now that every unit is done.

    UserError: no record can be used, or too many were rejected.
    """
    out, n_units = settings.out, len(opened.units)
    summary = Summary(passed_over=collections.Counter(opened.passed_over))
    classes, entries, ids = set(), [], SortedRuns()
    rejected_path = f"{out}/rejected.jsonl"
    noise_path, n_noise = f"{out}/{NOISE}", 0
    with (
        tf.io.gfile.GFile(rejected_path + ".new", "w") as rejected,
        tf.io.gfile.GFile(noise_path + ".new", "w") as noise,
    ):
        for index in range(n_units):
            report = _read_report(out, index)
            for record_id, label in report.get("noise", ()):
                line = {"id": record_id, "label": label, "noisy": label != CLEAN}
                noise.write(json.dumps(line) + "\n")
                n_noise += 1
            for key, reason in report["rejected"]:
                summary.reject(key, reason)
                line = {"unit": report["unit"], "record": key, "reason": reason}
                rejected.write(json.dumps(line) + "\n")
            summary.passed_over.update(report["passed_over"])
            summary.counts.update(report["counts"])
            classes.update(report["classes"])
            entries += report["shards"]
            with tf.io.gfile.GFile(f"{out}/unit-{index:06d}.ids", "rb") as file:
                ids.add(np.frombuffer(file.read(), "<i8"))
    _keep_if_any(rejected_path, summary.rejected)
    _keep_if_any(noise_path, n_noise)
    summary.records = sum(entry["records"] for entry in entries)
    summary.shards = len(entries)
    summary.counts["records_with_a_repeated_id"] = ids.n_repeated()
    summary.passed_over = +summary.passed_over
    _judge(settings, summary)

    def in_order(name: str) -> tuple:  # those that are numbers in the order of numbers
        is_number = name.isascii() and name.isdigit() and len(name) < 19
        return (0, int(name), name) if is_number else (1, 0, name)

    summary.classes = tuple(sorted(classes, key=in_order))
    if classes:
        _number_classes(settings, n_units, summary.classes)
        entries = [e for i in range(n_units) for e in _read_report(out, i)["shards"]]
    about = About(labels=(f"{_absolute(out)}/{NOISE}",)) if n_noise else About()
    base = _absolute(out)
    source = Source(name, id="id", key="key")
    if classes:
        source = dataclasses.replace(source, label="label", labels=summary.classes)
    shards = tuple(Shard(**entry | {"path": f"{base}/{entry['path']}"}) for entry in entries)
    path = save_if_new(Manifest(name, (source,), shards, about), f"{base}/manifest.json")
    _tell(summary, path, rejected_path, say)
    return summary


def _read_report(out: str, index: int) -> dict:
    with tf.io.gfile.GFile(f"{out}/{report_name(index)}") as file:
        return parse_json(file.read())


def _keep_if_any(path: str, n: int) -> None:
    """Puts PATH.new in the place of PATH if it is another; removes both where nothing is in it."""
    if n and not (tf.io.gfile.exists(path) and _is_same(path, path + ".new")):
        put_in_place(path + ".new", path)
        return
    for unused in [path + ".new"] + [path] * (not n):
        if tf.io.gfile.exists(unused):
            tf.io.gfile.remove(unused)


def _is_same(*paths: str) -> bool:
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tf.io.gfile.GFile(path, "rb")) for path in paths]
        while True:
            one, other = (file.read(1 << 20) for file in files)
            if one != other or not one:
                return one == other


def _judge(settings: Settings, summary: Summary) -> None:
    """Raises UserError where most of the source was rejected."""
    total = summary.records + summary.rejected
    if not total:
        raise UserError(f"{', '.join(settings.paths)}: there is no record in it")
    if summary.records and summary.rejected <= settings.max_rejected * total:
        return
    problem = f"{summary.rejected:,} of {total:,} records were rejected"
    if not summary.records:
        problem = f"no usable record; {problem}"
    raise UserError(
        f"{problem}:{summary.reasons_text()}\nAll are in {settings.out}/rejected.jsonl. "
        f"--max_rejected (now {settings.max_rejected:g}) sets the share that is accepted."
    )


def _number_classes(settings: Settings, n_units: int, classes: tuple[str, ...]) -> None:
    """Gives every class its number in `classes`, in all shards whose numbers are others."""
    if len(classes) > MAX_CLASSES:
        raise UserError(
            f"{len(classes):,} different classes, e.g. {', '.join(classes[:3])}: is that column a "
            "class? Name another one with --label_column (or a name that no column has)."
        )
    number = {name: i for i, name in enumerate(classes)}
    digest = hashlib.sha256(json.dumps(classes).encode()).hexdigest()[:16]

    def renumber(index: int) -> None:
        report = _read_report(settings.out, index)
        if not report["classes"] or report.get("numbered") == digest:
            return
        for entry in report["shards"]:
            entry["bytes"] = _renumbered(f"{settings.out}/{entry['path']}", number)
        write_report(settings.out, index, report | {"numbered": digest})

    with futures.ThreadPoolExecutor(settings.workers) as pool:
        list(pool.map(renumber, range(n_units)))


def _renumbered(path: str, number: dict[str, int]) -> int:
    """Writes a shard anew with `label` by the name in `cls`; returns its bytes."""
    with replacing(path) as aside, tf.io.TFRecordWriter(aside) as writer:
        for serialized in tf.data.TFRecordDataset(path).as_numpy_iterator():
            example = tf.train.Example.FromString(serialized)
            feature = example.features.feature
            if "cls" in feature:
                name = feature["cls"].bytes_list.value[0].decode()
                feature["label"].int64_list.value[:] = [number[name]]
            writer.write(example.SerializeToString(deterministic=True))
    return tf.io.gfile.stat(path).length


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def save_if_new(manifest: Manifest, path: str) -> str:
    """Leaves a manifest that says the same untouched."""
    if not _says(path, manifest):
        manifest.save(path)
    return path


def _says(path: str, manifest: Manifest) -> bool:
    with contextlib.suppress(UserError):
        return Manifest.load(path) == manifest
    return False


def _tell(summary: Summary, path: str, rejected_path: str, say: Callable[[str], None]) -> None:
    say(f"{summary.records:,} records in {summary.shards:,} shards -> {path}")
    if summary.classes:
        names = ", ".join(summary.classes[:5])
        say(f"{len(summary.classes):,} classes: {names}{' …' if len(summary.classes) > 5 else ''}")
    if summary.rejected:
        say(f"{summary.rejected:,} rejected -> {rejected_path}{summary.reasons_text()}")
    else:
        say("0 rejected")
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in summary.passed_over.most_common(8))
    say(f"{summary.passed_over.total():,} passed over{': ' if reasons else ''}{reasons}")
    total = summary.records + summary.rejected + summary.passed_over.total()
    say(f"{total:,} seen in all")
    for name, count in sorted(summary.counts.items()):
        if count:
            say(f"{count:,} {name.replace('_', ' ')}{HINTS.get(name, '')}")


def list_img2dataset(settings: Settings, say: Callable[[str], None]) -> Summary:
    """A manifest over img2dataset's own TFRecords, read in place: only counts records."""

    def count(path: str) -> Shard:
        with explaining(
            tf.errors.DataLossError,
            f"{path} is corrupt or cut: {{error}}. Fetch it again.",
        ):
            records = sum(1 for _ in tf.data.TFRecordDataset(path).as_numpy_iterator())
        path = _absolute(path)
        return Shard(path, records, bytes=tf.io.gfile.stat(path).length)

    if tf.io.gfile.exists(f"{settings.out}/source.json"):
        raise UserError(
            f"--out={settings.out} holds a set of another kind, whose manifest would be lost. Name "
            "an empty folder."
        )
    found = find(settings.paths, (".tfrecord", ".tfrecords"), settings.out)
    with futures.ThreadPoolExecutor(settings.workers) as pool:
        shards = list(pool.map(count, [found.path(name) for name, _, _ in found.files]))
    name = settings.name or source_name(found.root, settings.kind)
    image, captions = settings.image_column or "jpg", settings.caption_column or "txt"
    source = Source(name, image, captions, key="key")
    manifest = Manifest(name, (source,), tuple(shard for shard in shards if shard.records))
    path = f"{_absolute(settings.out)}/manifest.json"
    if tf.io.gfile.exists(path) and not _says(path, manifest):
        say("the source changed since the manifest was written: it is written anew")
    save_if_new(manifest, path)
    say(f"{manifest.n_records:,} records in {len(shards):,} files -> {path}")
    return Summary(manifest.n_records, len(shards))
