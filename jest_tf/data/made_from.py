"""What the output of `prepare` was made from: noted when it is begun, compared when it goes on."""

import gzip
import heapq
import itertools
import json
import re
import time
from collections.abc import Iterable, Iterator

import tensorflow as tf

from jest_tf.data.formats.pairs import encoded
from jest_tf.errors import UserError
from jest_tf.files import replacing, write_atomically
from jest_tf.json_text import parse_json

SOURCE = "source.json"
LISTING = "source_files.jsonl.gz"
OWN = re.compile(
    r"unit-\d{6}\.(json|ids)|shard-\d{6}-\d{3,}\.tfrecord|source\.json|source_files\.jsonl\.gz|"
    r"manifest\.json|rejected\.jsonl|noise\.jsonl"
)


def claim(out: str, wanted: dict, files: Iterable[tuple[str, int, int]], overwrite: bool) -> None:
    """Notes what a folder is made from: settings and files (name, bytes, time), sorted by name.

    UserError: it was made of others, says which. `overwrite` removes what `prepare` wrote there.
    """
    if overwrite:
        _clear(out)
    source, listing = f"{out}/{SOURCE}", f"{out}/{LISTING}"
    units = sorted(name for name in tf.io.gfile.listdir(out) if name.startswith("unit-"))
    if not tf.io.gfile.exists(source):
        if units:  # another run writes its source before its units
            raise UserError(f"{out} holds {units[0]} of another run; use an empty folder.")
        _write_listing(listing, files)
        write_atomically(source, json.dumps(wanted, indent=1))
        return
    with tf.io.gfile.GFile(source) as file:
        found = parse_json(file.read())
    changes = [
        f"{key}: {found.get(key)!r} then, {value!r} now"
        for key, value in wanted.items()
        if found.get(key) != value
    ]
    if set(found) >= set(wanted):
        changes += changed_files(_unpacked(listing), files)
    if changes:
        raise UserError(
            f"{out} was made from something else:\n  " + "\n  ".join(changes) + "\nUse an empty "
            "folder, or --overwrite to prepare all of it again here."
        )


def _clear(out: str) -> None:
    for name in tf.io.gfile.listdir(out):
        if OWN.fullmatch(name):
            tf.io.gfile.remove(f"{out}/{name}")


def _write_listing(path: str, listing: Iterable[tuple[str, int, int]]) -> None:
    aside = f"{path}.{time.time_ns()}"  # several runs may write it at once
    with (
        replacing(path, aside),
        tf.io.gfile.GFile(aside, "wb") as file,
        gzip.GzipFile("", "wb", 1, file, mtime=0) as packed,
    ):
        for entry in listing:
            packed.write(json.dumps(entry).encode() + b"\n")


def _unpacked(path: str) -> Iterator[tuple[str, int, int]]:
    with tf.io.gfile.GFile(path, "rb") as file, gzip.open(file) as lines:
        for line in lines:
            yield tuple(parse_json(line))


def changed_files(before: Iterable, now: Iterable) -> list[str]:
    """What differs between two listings of (name, bytes, time), both in the order of names."""

    def marked(listing: Iterable, is_now: int) -> Iterator[tuple]:
        return ((name, is_now, *version) for name, *version in listing)

    merged = heapq.merge(marked(before, 0), marked(now, 1), key=lambda entry: encoded(entry[0]))
    names: dict[str, list] = {}
    for name, group in itertools.groupby(merged, key=lambda entry: entry[0]):
        versions = list(group)
        if len(versions) == 2 and versions[0][2:] == versions[1][2:]:
            continue
        kind = "changed" if len(versions) == 2 else ("gone", "new")[versions[0][1]]
        count = names.setdefault(kind, [0, []])
        count[0] += 1
        if len(count[1]) < 5:
            count[1].append(name or "the --captions file")
    return [f"{n:,} files {kind}: {', '.join(first)}" for kind, (n, first) in names.items()]
