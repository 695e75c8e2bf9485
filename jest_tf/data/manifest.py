"""The manifest: the one thing that training reads. A list of TFRecord shards with their counts.

    {"version": 1, "name": "...", "fingerprint": "...",
     "sources": [{"name": "pool", "image": "image", "captions": "caption", "id": "id", ...}],
     "shards": [{"path": "a-00000.tfrecord", "records": 938, "bytes": 1650000, "source": 0}]}

Paths are relative to the manifest's folder where they lie below it, absolute or gs:// otherwise.
"""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf

from jest_tf.errors import UserError, explaining
from jest_tf.files import parse_json, write_atomically

VERSION = 1
# Beside a manifest: what its owner knows of the records, see `About.labels`.
OWN_LABELS = "labels.jsonl"


@dataclasses.dataclass(frozen=True)
class About:
    """Notes of the origin of a data set, for model cards and for measuring.

    labels: JSON lines {"id": 5, "label": "blurred", "noisy": true} about some or all records. `key`
    may replace `id`; without `noisy`, every label but `clean` is.
    """

    licences: tuple[str, ...] = ()  # one line each
    limits: tuple[str, ...] = ()  # what a model trained on the set cannot do
    labels: tuple[str, ...] = ()  # paths of files

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "About":
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: tuple(values.get(name) or ()) for name in names})


@dataclasses.dataclass(frozen=True)
class Source:
    """How to read the tf.train.Examples of one origin, by the names of their features."""

    name: str  # part of hashed ids
    image: str = "image"  # bytes, one encoded image
    captions: str | None = "captions"  # bytes, one or several; None: `labels` name the image
    id: str | None = None  # int64
    key: str | None = None  # bytes, hashed to an id when `id` is None
    label: str | None = None  # int64 class
    labels: tuple[str, ...] = ()  # text of each class, in label order
    weight: float | None = None  # share of the records of a mixture; None for all sources or none


@dataclasses.dataclass(frozen=True)
class Shard:
    """`records` records of a TFRecord file, from record `start` on."""

    path: str
    records: int
    source: int = 0
    start: int = 0
    bytes: int = 0  # of the file when it was listed, to find one that was cut; 0: not known
    # The pictures' own file, if they lie elsewhere (in_place.py), its bytes and a hash of the first
    tar: str = ""
    tar_bytes: int = 0
    tar_start: str = ""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Sources and shards, with absolute paths. `about` is no part of the fingerprint."""

    name: str
    sources: tuple[Source, ...]
    shards: tuple[Shard, ...]
    about: About = About()

    def __post_init__(self):
        weights = [s.weight for s in self.sources]
        if any(w is None for w in weights) != all(w is None for w in weights):
            raise UserError(f"manifest {self.name}: give every source a weight, or none: {weights}")
        for index, source in enumerate(self.sources):
            if source.weight is not None and not source.weight > 0:
                raise UserError(
                    f"manifest {self.name}: source {source.name!r} has weight {source.weight}; "
                    "expected a positive number. Leave the source out instead."
                )
            if source.captions is None and not (source.label and source.labels):
                raise UserError(
                    f"manifest {self.name}: source {source.name!r} has neither a caption feature "
                    "nor a label feature with label texts."
                )
            if not any(s.source == index and s.records for s in self.shards):
                raise UserError(
                    f"manifest {self.name}: source {source.name!r} holds no record. Leave it out, "
                    "or prepare it again."
                )

    def with_shards(self, shards: Sequence[Shard], name: str = "") -> "Manifest":
        """These shards in place of its own, and the sources that they have."""
        used = sorted({shard.source for shard in shards})
        sources = tuple(self.sources[i] for i in used)
        shards = tuple(dataclasses.replace(s, source=used.index(s.source)) for s in shards)
        return dataclasses.replace(self, name=name or self.name, sources=sources, shards=shards)

    @property
    def n_records(self) -> int:
        return sum(shard.records for shard in self.shards)

    @property
    def firsts(self) -> np.ndarray:
        """Number of the first record of each shard, and of all records: int64 [shards + 1]."""
        return np.cumsum([0, *(shard.records for shard in self.shards)], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        """16 hex digits of what the records are and in which order, wherever the files lie."""
        sources = [dataclasses.asdict(s) | {"weight": None} for s in self.sources]
        shards = [
            [os.path.basename(s.path), s.records, s.source, s.start, s.bytes]
            + ([os.path.basename(s.tar), s.tar_bytes, s.tar_start] if s.tar else [])
            for s in self.shards
        ]
        text = json.dumps([VERSION, sources, shards], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def locate(self, record: int) -> tuple[str, int]:
        """(file, index in the file) of the record with this number in manifest order."""
        for shard in self.shards:
            if record < shard.records:
                return shard.path, shard.start + record
            record -= shard.records
        raise IndexError(f"record {record} is past the end of manifest {self.name}")

    def save(self, path: str) -> None:
        """Writes the JSON; atomically, because other jobs may be reading it."""
        folder = os.path.dirname(os.path.abspath(path)) if "://" not in path else None

        def stored(path: str) -> str:
            path = path if "://" in path else os.path.abspath(path)
            inside = folder and path.startswith(folder + os.sep)
            return os.path.relpath(path, folder) if inside else path

        content = {
            "version": VERSION,
            "name": self.name,
            "fingerprint": self.fingerprint,
            "records": self.n_records,
            "sources": [dataclasses.asdict(source) for source in self.sources],
            "shards": [_entry(s, stored) for s in self.shards],
        }
        if self.about != About():
            labels = [stored(path) for path in self.about.labels]
            content["about"] = dataclasses.asdict(self.about) | {"labels": labels}
        if folder:
            tf.io.gfile.makedirs(folder)
        write_atomically(path, json.dumps(content, indent=1))

    @classmethod
    def load(cls, path: str) -> "Manifest":
        """Reads what `save` wrote. UserError: no file, other JSON, or another fingerprint."""
        folder = path.rpartition("/")[0] if "://" in path else os.path.dirname(path)
        with (
            explaining(
                tf.errors.OpError,
                f"cannot read manifest {path}: {{error}}. Make one with "
                "`python -m jest_tf.prepare`.",
            ),
            explaining(
                (ValueError, KeyError, TypeError),
                f"{path} is not a manifest ({{kind}}: {{error}}). `python -m jest_tf.prepare` "
                "makes one of a table, of tars or of a folder of pictures.",
            ),
        ):
            with tf.io.gfile.GFile(path) as file:
                content = parse_json(file.read())
            sources = tuple(
                Source(**entry | {"labels": tuple(entry.get("labels", ()))})
                for entry in content["sources"]
            )
            shards = tuple(
                Shard(**entry | {k: _absolute(entry[k], folder) for k in _FILES if k in entry})
                for entry in content["shards"]
            )
            about = About.from_dict(content.get("about", {}))
            labels = [_absolute(path, folder) for path in about.labels]
            own = _absolute(OWN_LABELS, folder)
            if own not in labels and tf.io.gfile.exists(own):
                labels.append(own)
            about = dataclasses.replace(about, labels=tuple(labels))
            manifest = cls(content["name"], sources, shards, about)
        if content.get("fingerprint") != manifest.fingerprint:
            raise UserError(
                f"manifest {path}: its fingerprint {content.get('fingerprint')} does not match its "
                f"content ({manifest.fingerprint}): it was edited by hand. Prepare it again."
            )
        return manifest


_FILES = ("path", "tar")


def _entry(shard: Shard, stored: Callable[[str], str]) -> dict:
    entry = dataclasses.asdict(shard)
    if not shard.tar:
        entry = {name: value for name, value in entry.items() if not name.startswith("tar")}
    return entry | {name: stored(entry[name]) for name in _FILES if name in entry}


def _absolute(path: str, folder: str) -> str:
    if "://" in path or os.path.isabs(path):
        return path
    if "://" in folder:
        return f"{folder}/{path}"
    return os.path.abspath(os.path.join(folder, path))


def mix(manifests: Sequence[Manifest], weights: Sequence[float] | None, name: str) -> Manifest:
    """One manifest of several; with weights, each gives that share of the records of a step.

    A manifest of several sources shares its weight among them by their records.
    """
    if weights is not None and len(weights) != len(manifests):
        raise UserError(f"{name}: {len(manifests)} data sets but {len(weights)} weights")
    sources, shards = [], []
    for index, manifest in enumerate(manifests):
        offset = len(sources)
        for number, source in enumerate(manifest.sources):
            weight = None
            if weights is not None:
                records = sum(s.records for s in manifest.shards if s.source == number)
                weight = weights[index] * records / manifest.n_records
            sources.append(dataclasses.replace(source, weight=weight))
        shards += [dataclasses.replace(s, source=s.source + offset) for s in manifest.shards]
    of_parts = zip(*(dataclasses.astuple(m.about) for m in manifests), strict=True)
    about = About(*(tuple(dict.fromkeys(itertools.chain(*lines))) for lines in of_parts))
    return Manifest(name, tuple(sources), tuple(shards), about)


def split(manifest: Manifest, share: float, held_out: bool, name: str) -> Manifest:
    """The last `share` of each shard (`held_out`), or all others; UserError: below two records."""
    counts = [round(share * shard.records) for shard in manifest.shards]
    if manifest.n_records < 2:
        raise UserError(f"{name}: {manifest.n_records} record cannot be split in two.")
    if not sum(counts):  # few records in every shard
        counts[max(range(len(counts)), key=lambda i: manifest.shards[i].records)] = 1
    shards = [
        dataclasses.replace(s, start=s.start + s.records - n, records=n)
        if held_out
        else dataclasses.replace(s, records=s.records - n)
        for s, n in zip(manifest.shards, counts, strict=True)
    ]
    return manifest.with_shards([shard for shard in shards if shard.records], name)


def check_files(manifest: Manifest) -> None:
    """Compares the size of every file, and the first bytes of tars, 128 at a time.

    UserError names those missing or changed.
    """

    def problem(path: str, listed: int, start: str) -> str | None:
        try:
            size = tf.io.gfile.stat(path).length
            if listed and size != listed:
                return f"{path}: {size:,} bytes, but {listed:,} when it was listed"
            if start and start != start_of(path):
                return f"{path}: it begins with other bytes than when it was listed"
        except tf.errors.OpError as error:
            return f"{path}: {type(error).__name__}"
        return None

    unique = {(shard.path, shard.bytes, "") for shard in manifest.shards}
    unique |= {(s.tar, s.tar_bytes, s.tar_start) for s in manifest.shards if s.tar}
    with futures.ThreadPoolExecutor(128) as pool:
        problems = [p for p in pool.map(lambda file: problem(*file), sorted(unique)) if p]
    if problems:
        shown = "\n  ".join(problems[:10])
        raise UserError(
            f"data set {manifest.name}: {len(problems)} of {len(unique)} files cannot be used as "
            f"listed:\n  {shown}\nRestore the files, or list them again with "
            "`python -m jest_tf.prepare`."
        )


def start_of(path: str) -> str:
    """16 hex digits of the first bytes of a file."""
    with tf.io.gfile.GFile(path, "rb") as file:
        return hashlib.sha256(file.read(4096)).hexdigest()[:16]
