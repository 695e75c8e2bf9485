"""From a source of image-text pairs to TFRecord shards and a manifest; `jest_tf.prepare` runs it.

A source is cut into units. A finished unit leaves its shards and, last, a report: a run that was
stopped goes on with the other units. After the last one come manifest.json and rejected.jsonl.
"""

# ruff: noqa: E402
if __name__ == "__main__":  # where the command was; scripts of users still call it here
    import runpy

    runpy.run_module("jest_tf.prepare", run_name="__main__", alter_sys=True)

import collections
import dataclasses
import functools
import gzip
import heapq
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures

import tensorflow as tf

from jest_tf.data import cleaning, prepared, units
from jest_tf.data.formats import folder, parquet, table, tar
from jest_tf.data.formats.pairs import (
    Item,
    Pair,
    PassedOver,
    Rejected,
    Settings,
    Unit,
    encoded,
)
from jest_tf.data.prepared import Summary
from jest_tf.errors import UserError, explaining, why
from jest_tf.files import parse_json, replacing, write_atomically
from jest_tf.progress import Counter

LEFT = (
    "{} holds what was prepared so far. The same command goes on with it, also with another "
    "--max_rejected; after other flags or a changed source give --overwrite, which begins anew."
)
CANNOT_WRITE = (OSError, tf.errors.OpError)
OPENER = "jest_tf.data.prepare:open_units"
OPENERS = {
    "folder": folder.open_folder,
    "webdataset": tar.open_tars,
    "csv": table.open_tables,
    "parquet": parquet.open_parquet,
}


def prepare(
    settings: Settings, say: Callable[[str], None] = print, beam: units.Beam | None = None
) -> Summary:
    """Does the units that are not done yet, in threads or by `beam`; writes the manifest.

    UserError: the source cannot be understood, changed since the output was begun, or is rejected
    for the most part; or the output cannot be written.
    """

    def where_and_why(error: Exception) -> str:
        at = getattr(error, "filename", None)
        return f"{at}: {why(error)}" if at else why(error)

    text = f"cannot go on: {{error}}. Units that are done are kept in {settings.out}: the same "
    with explaining(CANNOT_WRITE, text + "command goes on from there.", where_and_why):
        return _prepare(settings, say, beam)


def _prepare(settings: Settings, say: Callable[[str], None], beam: units.Beam | None) -> Summary:
    if settings.in_place and (settings.kind != "webdataset" or settings.max_side):
        other = "--max_side, which shrinks copies" if settings.max_side else settings.kind
        raise UserError(
            f"--in_place is for the kind webdataset, whose pictures it leaves as they are; found "
            f"{other}. Leave one of them out."
        )
    text = f"--out={settings.out} cannot be made a folder: {{error}}. Name a folder that can be "
    with explaining(CANNOT_WRITE, text + "written to.", str):
        tf.io.gfile.makedirs(settings.out)
    if settings.kind == "img2dataset":
        return prepared.list_img2dataset(settings, say)
    opened = OPENERS[settings.kind](settings)
    for note in opened.notes:
        say(note)
    name = settings.name or prepared.source_name(opened.root, settings.kind)
    claim(settings.out, settings.decisive(name), opened.listing, settings.overwrite)

    def left() -> list[int]:
        there = set(tf.io.gfile.listdir(settings.out))
        every = range(len(opened.units))
        return [index for index in every if prepared.report_name(index) not in there]

    by = f"by Beam's {beam.runner}" if beam else f"{settings.workers} threads"
    say(f"{len(opened.units):,} units, {len(left()):,} to do here, {by}")
    arguments = {"settings": dataclasses.asdict(settings), "n_units": len(opened.units)}
    in_threads = functools.partial(_in_threads, settings, name, opened.units, say)
    try:
        units.run(beam, OPENER, arguments, left, in_threads)
        return prepared.finish(settings, name, opened, say)
    except UserError as error:
        raise UserError(f"{error}\n{LEFT.format(settings.out)}") from error


def open_units(settings: dict, n_units: int) -> Callable[[int], object]:
    """For `units.run`; UserError: the source looks different from here."""
    split = {name: tuple(settings[name]) for name in ("paths", "split")}
    settings = Settings(**settings | split)
    opened = OPENERS[settings.kind](settings)
    if len(opened.units) != n_units:
        raise UserError(
            f"{', '.join(settings.paths)}: {len(opened.units):,} units are seen by a worker, and "
            f"{n_units:,} by the machine that started it. All must see the same files."
        )
    name = settings.name or prepared.source_name(opened.root, settings.kind)
    return lambda index: convert(opened.units[index], index, name, settings)


def _in_threads(
    settings: Settings, name: str, all_units: Sequence[Unit], say, todo: Sequence[int]
) -> None:
    """Converts units; only those in work are held."""
    progress = Counter("prepare", len(todo), "units")
    work = ((all_units[index], index, name, settings, progress) for index in todo)
    with futures.ThreadPoolExecutor(settings.workers) as pool, progress:
        try:
            for _ in units.in_order(pool, lambda unit: convert(*unit), work, 2 * settings.workers):
                pass
        except KeyboardInterrupt:
            progress.close()
            say(
                f"stopped: {progress.done:,} of {len(todo):,} units are done and kept; the same "
                "command goes on from there"
            )
            raise


def convert(
    unit: Unit, index: int, name: str, settings: Settings, progress: Counter | None = None
) -> None:
    """Reads one unit, writes its shards, and last its report, which marks it as done."""
    progress = progress or Counter(unit.name, 1, "units")
    rejected: list[tuple[str, str]] = []
    passed, counts = collections.Counter(), collections.Counter()
    with prepared.ShardWriter(settings, name, index, unit.tar) as writer:
        for items in units.together(unit.read(), lambda item: len(getattr(item, "image", b""))):
            progress.add(0, pairs=len(items))
            passed.update(item.reason for item in items if isinstance(item, PassedOver))
            writer.write(_usable(items, settings.max_side, rejected, counts))
    report = {
        "unit": unit.name,
        "records": sum(shard["records"] for shard in writer.shards),
        "shards": writer.shards,
        "classes": sorted(writer.classes),
        "noise": writer.noise,
        "rejected": rejected,
        "passed_over": passed,
        "counts": counts,
    }
    prepared.write_report(settings.out, index, report)
    progress.add()


def _usable(
    items: Sequence[Item], max_side: int | None, rejected: list, counts: collections.Counter
) -> list[tuple[Pair, tuple[int, int]]]:
    """The pairs that training can use, each with its picture's size; the others are noted."""
    images = [item.image for item in items if isinstance(item, Pair)]
    checked, usable = iter(cleaning.check_images(images, max_side)), []
    for item in items:
        if isinstance(item, Rejected):
            rejected.append((item.key, item.reason))
        if not isinstance(item, Pair):
            continue
        image, size, reason = next(checked)
        captions = cleaning.clean_captions(item.captions, counts)
        if not captions and item.label:  # the name of its class is what is known about it
            captions = [item.label.encode()]
        if reason or not captions:
            rejected.append((item.key, reason or "no caption"))
            continue
        offset = item.offset
        if offset is not None and image is not item.image:  # it had to be normalised
            counts["pictures_kept_in_the_index"] += 1
            offset = None
        pair = dataclasses.replace(item, image=image, captions=captions, offset=offset)
        usable.append((pair, size))
    return usable


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
        for name in filter(OWN.fullmatch, tf.io.gfile.listdir(out)):
            tf.io.gfile.remove(f"{out}/{name}")
    source, listing = f"{out}/{SOURCE}", f"{out}/{LISTING}"
    names = sorted(tf.io.gfile.listdir(out))
    others = [n for n in names if n.startswith("unit-") or n == "manifest.json"]
    if SOURCE not in names:
        if others:  # another run writes its source before these
            raise UserError(
                f"--out={out} holds {others[0]} of another run or program. Name an empty folder, "
                "or --overwrite to write over it."
            )
        with (
            replacing(listing) as aside,
            tf.io.gfile.GFile(aside, "wb") as file,
            gzip.GzipFile("", "wb", 1, file, mtime=0) as packed,
        ):
            packed.writelines(json.dumps(entry).encode() + b"\n" for entry in files)
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
