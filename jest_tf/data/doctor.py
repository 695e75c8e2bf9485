"""The data doctor: reads every record once and says what is in a data set, and what is wrong."""

import collections
import contextlib
import dataclasses
import functools
import io
import json
import unicodedata
from concurrent import futures

import numpy as np
import tensorflow as tf
from PIL import Image

from jest_tf.data.cleaning import read_picture, undecodable
from jest_tf.data.fields import is_text
from jest_tf.data.manifest import Manifest
from jest_tf.data.records import shard_records
from jest_tf.data.sorted_runs import SortedRuns
from jest_tf.data.units import in_order, together
from jest_tf.errors import UserError
from jest_tf.pages.html import data_uri, render
from jest_tf.progress import Counter

SAMPLES = 12
LISTED = 100
MOST_REPEATED = 10
HELD_TEXTS = 200_000
SIDES = (32, 64, 128, 256, 512, 1024, 2048)


@dataclasses.dataclass
class SourceReport:
    """Counts of one source; `problems` lists the first of each kind as [file, index, id]."""

    records: int = 0
    captions: int = 0
    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    problems: dict[str, list] = dataclasses.field(default_factory=dict)
    shorter_side: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    scripts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    caption_bytes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    samples: list[dict] = dataclasses.field(default_factory=list)  # cards of the page

    @property
    def sides(self) -> list[tuple[str, int]]:
        """`shorter_side` in the order of pixels."""
        found, names = self.shorter_side, [*(f"<={side}" for side in SIDES), f">{SIDES[-1]}"]
        return [(name.replace("<=", "up to "), found[name]) for name in names if name in found]

    def note(self, kind: str, where: tuple[str, int, int]) -> None:
        self.counts[kind] += 1
        listed = self.problems.setdefault(kind, [])
        if len(listed) < LISTED:
            listed.append(list(where))


@dataclasses.dataclass
class Report:
    """What `examine` found."""

    name: str
    records: int
    bad: int  # records that training cannot use
    duplicate_ids: int
    shared_ids: int  # ids that several sources have
    duplicate_captions: int
    most_repeated: dict[str, int]  # the captions that come most often, and how often
    unreadable_shards: dict[str, str]
    sources: dict[str, SourceReport]

    def to_json(self) -> str:
        content = dict(vars(self))
        content["sources"] = {name: dict(vars(s)) for name, s in self.sources.items()}
        for source in content["sources"].values():
            sizes = source.pop("caption_bytes")
            source.pop("samples")
            source["caption_bytes_percentiles"] = _percentiles(sizes)
        return json.dumps(content, indent=1, ensure_ascii=False)


def _percentiles(sizes: collections.Counter) -> list[int]:
    """The 0th, 25th, 50th, 75th, 99th and 100th; nothing of nothing."""
    if not sizes:
        return []
    values, counts = zip(*sorted(sizes.items()), strict=True)
    at = np.array([0, 0.25, 0.5, 0.75, 0.99, 1]) * (sum(counts) - 1)
    return [values[i] for i in np.searchsorted(np.cumsum(counts), at, side="right")]


def examine(manifest: Manifest, workers: int = 8) -> Report:
    """Reads and decodes every record of a manifest, `workers` shards at once."""
    names = _different([source.name for source in manifest.sources])
    sources = {name: SourceReport() for name in names}
    ids_of = {name: SortedRuns() for name in names}
    ids, captions = SortedRuns(), SortedRuns()
    texts: collections.Counter = collections.Counter()
    unreadable: dict[str, str] = {}
    counter = Counter(f"reading {manifest.name}", manifest.n_records)
    with futures.ThreadPoolExecutor(workers) as pool, counter:
        shards = range(len(manifest.shards))
        parts = in_order(pool, lambda index: _examine_shard(manifest, index, counter), shards)
        for index, (part, shard_ids, shard_texts, error) in enumerate(parts):
            shard = manifest.shards[index]
            name = names[shard.source]
            _merge(sources[name], part)
            ids.add(shard_ids)
            ids_of[name].add(shard_ids)
            captions.add([hash(text) for text in shard_texts])
            texts.update(shard_texts)
            _keep_frequent(texts)
            if error:
                unreadable[shard.path] = error
    bad = sum(s.counts["bad_record"] for s in sources.values())
    return Report(
        name=manifest.name,
        records=sum(source.records for source in sources.values()),
        bad=bad,
        duplicate_ids=ids.n_repeated(),
        shared_ids=ids.n_repeated() - sum(own.n_repeated() for own in ids_of.values()),
        duplicate_captions=captions.n_repeated(),
        most_repeated={
            text.decode("utf-8", "replace")[:200]: n
            for text, n in texts.most_common(MOST_REPEATED)
            if n > 1
        },
        unreadable_shards=unreadable,
        sources=sources,
    )


def _keep_frequent(texts: collections.Counter) -> None:
    """Bounds the memory: the rarest texts are forgotten, those that come often stay."""
    least = 1
    while len(texts) > HELD_TEXTS:
        for text in [text for text, n in texts.items() if n <= least]:
            del texts[text]
        least *= 2


def _different(names: list[str]) -> list[str]:
    """`name (2)` for the second source of a name."""
    seen: collections.Counter = collections.Counter()
    different = []
    for name in names:
        seen[name] += 1
        different.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return different


def _examine_shard(manifest: Manifest, index: int, counter: Counter):
    """(SourceReport, ids, captions, why the shard could not be read, or None)"""
    path = manifest.shards[index].path
    part, ids, captions, reason = SourceReport(), [], [], None
    number = manifest.shards[index].start
    try:
        for records in together(shard_records(manifest, index), lambda record: len(record.image)):
            bad = undecodable([record.image for record in records])
            for record, reason in zip(counter.over(records), bad, strict=True):
                where = (path, number, record.id)
                number += 1
                part.records += 1
                ids += [record.id] * (record.id != -1)
                captions += record.captions
                usable = _examine_image(part, record.image, reason, where)
                usable &= _examine_captions(part, record.captions, where)
                if not usable:
                    part.note("bad_record", where)
                elif len(part.samples) < SAMPLES and number % 37 == 1:
                    text = next(filter(is_text, record.captions)).decode("utf-8", "replace")[:200]
                    picture = data_uri(read_picture(record.image))
                    part.samples.append({"image": picture, "text": text, "details": []})
    except tf.errors.OpError as error:
        reason = f"after record {number}: {error.message.splitlines()[0]}"
    expected = manifest.shards[index].records
    if part.records != expected:
        reason = reason or f"holds {part.records} records, the manifest says {expected}"
    return part, ids, captions, reason


def _examine_image(part: SourceReport, image: bytes, reason: str | None, where: tuple) -> bool:
    side = 0
    if not reason:
        with contextlib.suppress(OSError, ValueError), Image.open(io.BytesIO(image)) as picture:
            side = min(picture.size)
    if not side:
        part.note("unreadable_image", where)
        return False
    bucket = next((s for s in SIDES if side <= s), None)
    part.shorter_side[f"<={bucket}" if bucket else f">{SIDES[-1]}"] += 1
    return True


def _examine_captions(part: SourceReport, texts: list[bytes], where: tuple) -> bool:
    part.captions += len(texts)
    if not texts:
        part.note("no_caption", where)
        return False
    empty = 0
    for text in texts:
        part.caption_bytes[len(text)] += 1
        try:
            decoded = text.decode("utf-8")
        except UnicodeDecodeError:
            part.note("caption_not_utf8", where)
            decoded = text.decode("utf-8", "ignore")
        if not is_text(text):
            part.note("empty_caption", where)
            empty += 1
        part.scripts[script_of(decoded)] += 1
    return empty < len(texts)


def script_of(text: str) -> str:
    """The script of most letters: LATIN, CYRILLIC, CJK, …; `none` without letters."""
    letters = filter(None, map(_script, text[:200]))
    counted = collections.Counter(letters).most_common(1)
    return counted[0][0] if counted else "none"


@functools.cache  # a million characters at most
def _script(character: str) -> str:
    """The first word of a letter's name; empty for what is no letter."""
    return unicodedata.name(character, "none").split()[0] if character.isalpha() else ""


def _merge(total: SourceReport, part: SourceReport) -> None:
    total.records += part.records
    total.captions += part.captions
    for name in ("counts", "shorter_side", "scripts"):
        getattr(total, name).update(getattr(part, name))
    for kind, where in part.problems.items():
        listed = total.problems.setdefault(kind, [])
        listed += where[: LISTED - len(listed)]
    total.caption_bytes.update(part.caption_bytes)
    total.samples += part.samples[: SAMPLES - len(total.samples)]


def write(report: Report, folder: str) -> tuple[str, str]:
    """Writes `data_report.json` and `data_report.html` (with samples); returns both paths."""
    tf.io.gfile.makedirs(folder)
    paths = f"{folder}/data_report.json", f"{folder}/data_report.html"
    page = render(
        "data_report.html.j2", title=report.name, generated="", contents=[], report=report
    )
    for path, content in zip(paths, (report.to_json(), page), strict=True):
        with tf.io.gfile.GFile(path, "w") as file:
            file.write(content)
    return paths


def check_bound(report: Report, max_bad_share: float) -> None:
    """Raises UserError where more than this share of the records cannot be used."""
    share = report.bad / max(report.records, 1)
    if share > max_bad_share:
        kinds = {k: n for source in report.sources.values() for k, n in source.counts.items()}
        raise UserError(
            f"{report.name}: {report.bad:,} of {report.records:,} records ({share:.1%}) cannot be "
            f"used; the bound is {max_bad_share:.1%}. By kind: {kinds}"
        )
