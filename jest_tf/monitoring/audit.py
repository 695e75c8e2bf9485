"""The audit of a data set: one row a pair, made shard by shard, then judged as a whole.

A unit of work is a shard: its rows go to a file of their own, so that a rerun goes on. Held in
memory are a few numbers a pair (about 60 bytes), never a caption or an embedding.
"""

import collections
import dataclasses
import functools
import hashlib
import heapq
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from jest_tf.data.cleaning import read_picture
from jest_tf.data.fields import Record, hash64, is_text
from jest_tf.data.manifest import Manifest
from jest_tf.data.records import look_up, shard_records
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.errors import explaining
from jest_tf.files import claimed_folder, parse_json, replacing
from jest_tf.monitoring import cross_fit
from jest_tf.monitoring.cross_fit import CrossFit, pair_rank
from jest_tf.monitoring.ledger import Ledger
from jest_tf.monitoring.verdicts import (
    DUPLICATE,
    LEARNED,
    UNSEEN,
    USEFUL,
    WRONG,
    Verdicts,
    judge,
    mates,
    representatives,
)
from jest_tf.pages.html import png_uri, render, thumbnail
from jest_tf.progress import Counter

VERSION = 4
ABOUT = b"jest_audit"  # the key of an audit's notes in the metadata of its file
SAMPLED = 8192  # pairs that the embeddings' spread is taken from
FITTED = 1 << 16  # pairs that the regressions are learned from, at most
ROWS = 1024  # pairs that are ranked at a time
DECIDING = (
    "content_hash", "caption_hash", "reference_rank", "wrong_rank", "learnability", "times_loaded",
    "readable",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Audit:
    """What is audited, and with what.

    ledger: of a run on this very data, or None. reference, learner: caches of the embeddings of the
    two models, or None. pictures: keep a thumbnail in each row, for tools that show pictures.
    """

    manifest: Manifest
    ledger: Ledger | None = None
    reference: ReferenceCache | None = None
    learner: ReferenceCache | None = None
    pictures: bool = False

    @property
    def identity(self) -> dict:
        """What the rows depend on."""
        digest = hashlib.sha256()
        for column in self.ledger.columns.values() if self.ledger else ():
            digest.update(column.tobytes())
        return {
            "version": VERSION,
            "data": self.manifest.fingerprint,
            "ledger": self.ledger and digest.hexdigest()[:16],
            "reference": self.reference and self.reference.identity,
            "learner": self.learner and self.learner.identity,
            "pictures": self.pictures,
        }

    @property
    def models(self) -> dict[str, ReferenceCache]:
        found = {"reference": self.reference, "learner": self.learner}
        return {name: cache for name, cache in found.items() if cache}

    def _spread(self, n: float) -> np.ndarray:
        """Up to n shards, evenly drawn; one at least."""
        last = len(self.manifest.shards) - 1
        return np.unique(np.linspace(0, last, int(max(1, min(last + 1, n)))).astype(int))

    @functools.cached_property
    def others(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Model → (zimg, ztxt) [SAMPLED, d] of pairs drawn evenly, that all are ranked among."""
        used, firsts = self._spread(64), self.manifest.firsts
        records = np.concatenate([np.arange(*firsts[[s, s + 1]]) for s in used])
        rng = np.random.default_rng(0)
        records = np.sort(rng.permutation(records)[:SAMPLED])
        shards = np.searchsorted(firsts, records, "right") - 1
        found = {}
        for name, cache in self.models.items():
            parts = []
            for shard in used:
                rows = records[shards == shard] - firsts[shard]
                texts = shard_records(self.manifest, int(shard), pictures=False)
                captions = [first_caption(record)[0] for record in texts]
                parts.append([z[rows] for z in cache.embeddings(int(shard), captions)])
            zimg, ztxt = (np.concatenate(z) for z in zip(*parts, strict=True))
            known = rng.permutation(np.flatnonzero(zimg.any(1) & ztxt.any(1)))
            found[name] = zimg[known], ztxt[known]
        return found

    def learned(self) -> CrossFit:
        """Learns what fits together; without a reference, or of few pairs, nothing."""
        if self.reference is None or len(self.others["reference"][0]) < 10 * cross_fit.FOLDS:
            return CrossFit({})
        mean = self.manifest.n_records / len(self.manifest.shards)
        blocks = map(self._pairs, self._spread(FITTED / mean))
        return CrossFit.of(*self.others["reference"], blocks)

    def _pairs(self, shard: int) -> cross_fit.Pairs:
        """The pairs of a shard that the reference knows."""
        records = list(shard_records(self.manifest, int(shard)))
        places, captions = zip(*map(first_caption, records), strict=True)
        zimg, ztxt = self.reference.embeddings(int(shard), places)
        rows = np.flatnonzero(zimg.any(1) & ztxt.any(1) & np.array([bool(c) for c in captions]))
        fold = cross_fit.folds(*_hashes(records, captions))
        return zimg[rows], ztxt[rows], [captions[i] for i in rows], fold[rows]


def _hashes(records: Sequence[Record], captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """int64 [n] of the pictures, and of the captions."""
    contents = [hash64(record.image) for record in records]
    return np.array(contents, np.int64), np.array([hash64(c.encode()) for c in captions], np.int64)


def first_caption(record: Record) -> tuple[int, str]:
    """(place among its captions, text) of the first that is not empty; (0, "") of none."""
    usable = (
        (i, t.decode("utf-8", "replace")) for i, t in enumerate(record.captions) if is_text(t)
    )
    return next(usable, (0, ""))


def write_unit(audit: Audit, fit: CrossFit, index: int, path: str) -> None:
    """The rows of a shard, all but their verdicts."""
    records = list(shard_records(audit.manifest, index))
    source = audit.manifest.sources[audit.manifest.shards[index].source]
    captions = [first_caption(record) for record in records]
    readable = np.array([bool(text) for _, text in captions])  # UNREADABLE has none either
    first = int(audit.manifest.firsts[index])
    content_hash, caption_hash = _hashes(records, [text for _, text in captions])
    columns = {
        "key": [record.key.decode("utf-8", "replace") for record in records],
        "id": np.array([record.id for record in records], np.int64),
        "source": [source.name] * len(records),
        "caption": [text for _, text in captions],
        "record": np.arange(first, first + len(records)),
        "readable": readable,
        "content_hash": content_hash,
        "caption_hash": caption_hash,
    }
    if audit.ledger is not None:
        columns |= _of_ledger(audit.ledger, columns["record"])
    columns |= _of_models(audit, fit, index, captions, columns)
    if audit.pictures:
        columns["image"] = [{"bytes": picture_bytes(r.image), "path": None} for r in records]
    with replacing(path) as aside:
        pq.write_table(pa.table(columns), aside)


def picture_bytes(image: bytes) -> bytes | None:
    """A small PNG of an encoded picture; None where it is none."""
    try:
        return thumbnail(read_picture(image))
    except Exception:  # Pillow raises many types; each means a picture that cannot be shown
        return None


def _of_ledger(ledger: Ledger, record: np.ndarray) -> dict[str, np.ndarray]:
    """The ledger's columns of these records; NaN and 0 where it does not track one."""
    tracked = record % ledger.stride == 0
    columns = {}
    for name, values in ledger.table().items():
        nothing = np.nan if values.dtype.kind == "f" else 0
        rows = np.minimum(record // ledger.stride, len(values) - 1)
        columns[name] = np.where(tracked, values[rows], nothing).astype(values.dtype)
    columns["learnability"] = columns.pop("last_learnability")
    return columns


def _of_models(
    audit: Audit,
    fit: CrossFit,
    index: int,
    captions: Sequence[tuple[int, str]],
    known: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Scores, losses and ranks by the caches; NaN for what is not readable."""
    columns, texts = {}, np.array([text for _, text in captions], object)
    fold = cross_fit.folds(known["content_hash"], known["caption_hash"])
    for name, cache in audit.models.items():
        zimg, ztxt = cache.embeddings(index, [place for place, _ in captions])
        cosine = np.sum(zimg * ztxt, axis=1)
        others = [z[: cross_fit.RANKED] for z in audit.others[name]]
        blocks = [slice(i, i + ROWS) for i in range(0, len(zimg), ROWS)]
        rank = np.concatenate([pair_rank(zimg[b], ztxt[b], others) for b in blocks])
        columns[f"{name}_score"] = cosine
        columns[f"{name}_loss"] = np.logaddexp(0, -(cache.scale * cosine + cache.bias))
        columns[f"{name}_rank"] = rank
        told = [f"{name}_{column}" for column in ("score", "loss", "rank")]
        if name == "reference":
            learned = [fit.rank(zimg[b], ztxt[b], texts[b], fold[b]) for b in blocks if fit]
            columns["wrong_rank"] = np.concatenate(learned) if fit else rank
            told.append("wrong_rank")
        lost = ~known["readable"] | ~zimg.any(axis=1)
        columns |= {k: np.where(lost, np.nan, columns[k]).astype(np.float32) for k in told}
    if audit.learner and audit.reference:
        columns["learnability"] = columns["learner_loss"] - columns["reference_loss"]
    return columns


def unit_of(audit: Audit, out: str) -> Callable[[int], None]:
    """What writes the rows of a shard; UserError: it cannot be read."""
    audit.others  # noqa: B018  before threads ask for it
    with np.load(_fit_path(out), allow_pickle=False) as arrays:
        fit = CrossFit(dict(arrays))

    def one(index: int) -> None:
        text = f"{audit.manifest.shards[index].path} cannot be read: {{error}}"
        with explaining(tf.errors.OpError, text):
            write_unit(audit, fit, index, part_path(out, index))

    return one


def part_path(out: str, index: int) -> str:
    return f"{out}.parts/{index:06d}.parquet"


def _fit_path(out: str) -> str:
    return f"{out}.parts/cross_fit.npz"


def begin(audit: Audit, out: str) -> None:
    """Makes the folder of the parts, and learns what all of them need, once."""
    claimed_folder(f"{out}.parts", audit.identity)
    if not os.path.exists(_fit_path(out)):
        with replacing(_fit_path(out)) as aside, open(aside, "wb") as file:
            np.savez(file, **audit.learned().arrays)


def missing_parts(audit: Audit, out: str) -> list[int]:
    n_units = len(audit.manifest.shards)
    return [i for i in range(n_units) if not os.path.exists(part_path(out, i))]


def in_threads(audit: Audit, out: str, workers: int, todo: Sequence[int]) -> None:
    counter = Counter("audit", len(todo), "shards")
    with futures.ThreadPoolExecutor(workers) as pool, counter:
        collections.deque(counter.over(pool.map(unit_of(audit, out), todo)), maxlen=0)


def finish(audit: Audit, out: str, wrong_share: float | None = None) -> Verdicts:
    """Writes the audit as a Parquet file with a row group a shard, once all parts are there."""
    paths = [part_path(out, i) for i in range(len(audit.manifest.shards))]
    known = [name for name in DECIDING if name in pq.read_schema(paths[0]).names]
    read = [pq.read_table(path, columns=known) for path in paths]
    table = {name: np.concatenate([part[name].to_numpy() for part in read]) for name in known}
    representative = representatives(table["content_hash"], table["caption_hash"])
    found = judge(table, representative, wrong_share)
    about = audit.identity | {
        "data_name": audit.manifest.name,
        "records": audit.manifest.n_records,
        "threshold": found.threshold,
        "estimated_wrong_share": found.wrong_share,
        "ledger_since_step": audit.ledger.since if audit.ledger else None,
    }
    n_mates = mates(table["caption_hash"])
    keys = _keys(paths, np.unique(representative[found.verdict == DUPLICATE]))
    writer, first = None, 0
    with replacing(out) as aside:
        for path in paths:
            table = pq.read_table(path)
            rows = slice(first, first + len(table))
            first += len(table)
            verdict = found.verdict[rows]
            of = [
                keys[r] if v == DUPLICATE else None
                for v, r in zip(verdict, representative[rows].tolist(), strict=True)
            ]
            told = [v if k is None else f"{v} of {k}" for v, k in zip(verdict, of, strict=True)]
            for name, values in (
                ("caption_mates", n_mates[rows]),
                ("verdict", pa.array(told, pa.string())),
                ("rule", pa.array(found.rule[rows], pa.string())),
                ("duplicate_of", pa.array(of, pa.string())),
                ("border", found.border[rows]),
            ):
                table = table.append_column(name, pa.array(values))
            if writer is None:
                schema = table.schema.with_metadata({ABOUT: json.dumps(about).encode()})
                writer = pq.ParquetWriter(aside, schema)
            writer.write_table(table.replace_schema_metadata(schema.metadata))
        writer.close()
    shutil.rmtree(f"{out}.parts")
    return found


def _keys(paths: Sequence[str], records: np.ndarray) -> dict[int, str]:
    """Record number → key, of these records."""
    keys, first = {}, 0
    for path in paths:
        n = pq.ParquetFile(path).metadata.num_rows
        here = records[(records >= first) & (records < first + n)]
        if here.size:
            column = pq.read_table(path, columns=["key"])["key"]
            keys |= {int(r): column[int(r) - first].as_py() for r in here}
        first += n
    return keys


def read_about(path: str) -> dict:
    """The notes in an audit's file; UserError: it cannot be read, or is no audit."""
    text = f"{path} is not an audit ({{kind}}: {{error}}). Make one with `jest audit "
    with explaining((OSError, ValueError, KeyError), text + "--out=audit.parquet`."):
        return parse_json((pq.read_schema(path).metadata or {})[ABOUT])


def row_groups(path: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of an audit, a shard at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns)


SHOWN = 16  # pictures of each verdict, and on the border of two
MEANING = {
    WRONG: "Other pairs' texts and pictures fit better than their own.",
    LEARNED: "The learner fits the pair at least as well as the reference.",
    USEFUL: "Not wrong, and not yet learned as far as is known.",
    DUPLICATE: "Picture and caption are those of an earlier pair.",
    UNSEEN: "Never scored: not loaded, not readable, or the policy asks no model.",
}
NUMBERS = (
    "wrong_rank", "reference_rank", "reference_score", "learnability", "times_loaded",
    "times_selected",
)  # fmt: skip
COLUMNS = ("record", "key", "source", "caption", "verdict", "rule", "border", *NUMBERS)


def page(path: str, manifest: Manifest, generated: str) -> str:
    """The page about an audit's file. Pictures are read from the data set."""
    about = read_about(path)
    counts: dict[str, collections.Counter] = {}
    examples, border = {name: [] for name in MEANING}, []
    for table in row_groups(path):
        rows = table.select([n for n in COLUMNS if n in table.column_names]).to_pylist()
        for row in rows:
            row["kind"] = DUPLICATE if row["verdict"].startswith(DUPLICATE) else row["verdict"]
            counts.setdefault(row["source"], collections.Counter())[row["kind"]] += 1
        for name, kept in examples.items():
            here = [row for row in rows if row["kind"] == name]
            examples[name] = heapq.nsmallest(SHOWN, kept + here, lambda row: _draw(row["record"]))
        here = [row for row in rows if not np.isnan(row["border"])]
        border = heapq.nsmallest(SHOWN, border + here, lambda row: row["border"])
    total = sum(counts.values(), collections.Counter())
    groups = [(name, rows, MEANING[name]) for name, rows in examples.items()]
    groups.append(("On the border", border, "The pairs nearest to the thresholds."))
    return render(
        "audit.html.j2",
        title=f"Audit of {about['data_name']}",
        generated=generated,
        contents=["Shares", *(name for name, rows, _ in groups if rows)],
        about=about,
        total=total,
        counts=counts if len(counts) == 1 else counts | {"all": total},
        verdicts=list(MEANING),
        is_ranked=np.isfinite(about["threshold"]),
        groups=[(name, text, _cards(rows, manifest)) for name, rows, text in groups if rows],
    )


def _draw(record: int) -> int:
    """A number that looks drawn: examples come from everywhere, and are always the same."""
    return record * 0x9E3779B97F4A7C15 % 2**64


def _cards(rows: Sequence[dict], manifest: Manifest) -> list[dict]:
    cards = []
    for row, record in zip(rows, look_up(manifest, [r["record"] for r in rows]), strict=True):
        known = [n for n in NUMBERS if row.get(n) is not None and np.isfinite(row[n])]
        told = [f"{name.replace('_', ' ')} {row[name]:.3g}" for name in known]
        details = [row["verdict"] + ": " + row["rule"], ", ".join(told), row["key"]]
        picture = picture_bytes(record.image)
        cards.append({"image": png_uri(picture), "text": row["caption"][:200], "details": details})
    return cards
