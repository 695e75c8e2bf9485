"""From a source of image-text pairs to TFRecord shards and a manifest; `jest_tf.prepare` runs it.

A source is cut into units. A finished unit leaves its shards and, last, a report: a run that was
stopped goes on with the other units, and several runs may share the work. Whichever finishes the
last unit writes manifest.json and rejected.jsonl.
"""

# ruff: noqa: E402
if __name__ == "__main__":  # where the command was; scripts of users still call it here
    import runpy

    runpy.run_module("jest_tf.prepare", run_name="__main__", alter_sys=True)

import collections
import dataclasses
import gzip
import heapq
import itertools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures

import tensorflow as tf

from jest_tf.data import cleaning, prepared, units
from jest_tf.data.formats import folder, parquet, table, tar
from jest_tf.data.formats.files import why
from jest_tf.data.formats.pairs import PassedOver, Rejected, Settings, Unit, encoded
from jest_tf.data.prepared import Summary
from jest_tf.errors import UserError
from jest_tf.files import parse_json, replacing, write_atomically
from jest_tf.progress import Counter

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
    """Does this run's share of the units, in threads or by `beam`; writes the manifest when all
    are there.

    UserError: the source cannot be understood, changed since the output was begun, or is rejected
    for the most part; or the output cannot be written.
    """
    try:
        return _prepare(settings, say, beam)
    except (OSError, tf.errors.OpError) as error:
        at = getattr(error, "filename", None)
        raise UserError(
            f"cannot go on: {f'{at}: ' if at else ''}{why(error)}. Units that are done are kept in "
            f"{settings.out}: the same command goes on from there."
        ) from error


def _prepare(settings: Settings, say: Callable[[str], None], beam: units.Beam | None) -> Summary:
    if settings.in_place and (settings.kind != "webdataset" or settings.max_side):
        other = "--max_side, which shrinks copies" if settings.max_side else settings.kind
        raise UserError(
            f"--in_place is for the kind webdataset, whose pictures it leaves as they are; found "
            f"{other}. Leave one of them out."
        )
    make_folder(settings.out)
    if settings.kind == "img2dataset":
        return prepared.list_img2dataset(settings, say)
    opened = OPENERS[settings.kind](settings)
    for note in opened.notes:
        say(note)
    name = settings.name or prepared.source_name(opened.root, settings.kind)
    claim(settings.out, settings.decisive(name), opened.listing, settings.overwrite)

    def left() -> list[int]:
        there = set(tf.io.gfile.listdir(settings.out))
        mine = range(settings.part, len(opened.units), settings.parts)
        return [index for index in mine if prepared.report_name(index) not in there]

    todo = left()
    by = f"by Beam's {beam.runner}" if beam else f"{settings.workers} threads"
    say(f"{len(opened.units):,} units, {len(todo):,} to do here, {by}")
    if beam:
        arguments = {"settings": dataclasses.asdict(settings), "n_units": len(opened.units)}
        units.run(beam, OPENER, arguments, todo, left)
    else:
        _run(settings, name, opened.units, todo, say)
    return prepared.finish(settings, name, opened, say)


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


def make_folder(out: str) -> None:
    try:
        tf.io.gfile.makedirs(out)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"--out={out} cannot be made a folder: {error}. Name a folder that can be written to."
        ) from error


def parse_part(text: str) -> tuple[int, int]:
    """`i/n` -> (i, n), 0 <= i < n."""
    try:
        part, parts = (int(number) for number in text.split("/"))
        if 0 <= part < parts:
            return part, parts
    except ValueError:
        pass
    raise UserError(f"--shard={text}: expected i/n with 0 <= i < n, e.g. 0/4")


def _run(settings: Settings, name: str, units: Sequence[Unit], todo: list[int], say) -> None:
    """Converts units in threads; only those in work are held."""
    progress = Counter("prepare", len(todo), "units")
    left = iter(todo)
    pool = futures.ThreadPoolExecutor(settings.workers)
    waiting: set[futures.Future] = set()
    try:
        while True:
            for index in itertools.islice(left, 2 * settings.workers - len(waiting)):
                waiting.add(pool.submit(convert, units[index], index, name, settings, progress))
            if not waiting:
                return
            done, waiting = futures.wait(waiting, return_when=futures.FIRST_COMPLETED)
            for job in done:
                job.result()  # or the error
    except KeyboardInterrupt:
        progress.close()
        say(
            f"stopped: {progress.done:,} of {len(todo):,} units are done and kept; the same "
            "command goes on from there"
        )
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        progress.close()


def convert(
    unit: Unit, index: int, name: str, settings: Settings, progress: Counter | None = None
) -> dict:
    """Reads one unit, writes its shards, and last its report, which marks it as done."""
    progress = progress or Counter(unit.name, 1, "units")
    rejected: list[tuple[str, str]] = []
    passed, counts = collections.Counter(), collections.Counter()
    with prepared.ShardWriter(settings, name, index, unit.tar) as writer:
        for pair in unit.read():
            progress.add(0, pairs=1)
            if isinstance(pair, PassedOver):
                passed[pair.reason] += 1
                continue
            if isinstance(pair, Rejected):
                rejected.append((pair.key, pair.reason))
                continue
            image, size, reason = cleaning.check_image(pair.image, settings.max_side)
            captions = cleaning.clean_captions(pair.captions, counts)
            if not captions and pair.label:  # the name of its class is what is known about it
                captions = [pair.label.encode()]
            if reason or not captions:
                rejected.append((pair.key, reason or "no caption"))
                continue
            if pair.offset is not None and image is not pair.image:  # it had to be normalised
                counts["pictures_kept_in_the_index"] += 1
                pair = dataclasses.replace(pair, offset=None)
            writer.write(dataclasses.replace(pair, image=image, captions=captions), size)
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
    return report


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
