"""What all cells read, made once before the first: cells may run side by side."""

import itertools
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks import bq
from benchmarks.evidence.grid import (
    BALANCED,
    BASE,
    BASE_CACHE,
    BEST_PAIRS,
    CLEAN_POOL,
    CLUSTERED,
    PARTS,
    PHOTOS,
    TENTH,
    Cell,
)
from examples.emoji import builder as emoji  # noqa: F401 - registers the set with TFDS
from jest_tf.data.manifest import Manifest, Shard
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.data.sources import open_source
from jest_tf.monitoring.labels import CLEAN
from jest_tf.training.inputs import find_vocabulary

POOL = "tfds:emoji_captions/pool:train"
SHIPPED = "data/emoji/base"  # the weights that are tuned
BEST_SHARE = 0.3  # of the pool that an offline filter keeps: as DataComp's best CLIPScore filter


def prepare(cells: Iterable[Cell], data_dir: str, placeholders: Mapping[str, str]) -> None:
    """Prepares data sets and vocabularies of the cells, and what their placeholders stand for.

    Args:
      data_dir: where TFDS keeps its sets.
      placeholders: see `runner.Folders`.
    """
    cells = list(cells)
    sources, vocabularies, used = {POOL}, {}, set()
    for cell in cells:
        config = cell.config
        used |= {value for _, value in cell.row.overrides if value in placeholders}
        used |= {PHOTOS} if PHOTOS in cell.argument else set()
        sources |= {config.data.train, *(e.data for e in config.evals.values())}
        if not config.model.init:
            vocabularies[config.data.vocab_from, config.data.vocab_size] = config
    sources = {source for source in sources if source.startswith("tfds:")}
    for source in sources:
        open_source(source, data_dir)
    clean_pool = placeholders[CLEAN_POOL]
    if CLEAN_POOL in used and not Path(clean_pool).exists():
        write_clean_part(open_source(POOL, data_dir), clean_pool)
    for words in base_commands(used, data_dir, placeholders):
        print(shlex.join(words), flush=True)
        subprocess.run([sys.executable, *words[1:]], check=True)
    parts = sorted(part for part in used & set(PARTS) if not Path(placeholders[part]).exists())
    if parts:
        write_parts(parts, open_source(POOL, data_dir), placeholders)
    for config in vocabularies.values():
        config = config.copy_and_resolve_references()
        config.data.data_dir = data_dir
        config.data.vocab_from = config.data.vocab_from.replace(PHOTOS, placeholders[PHOTOS])
        find_vocabulary(config)


def base_commands(
    used: set[str], data_dir: str, placeholders: Mapping[str, str]
) -> list[list[str]]:
    """The shipped commands that make what is `used` and not there: the base and what it scored."""
    base, cache, best, photos = (placeholders[p] for p in (BASE, BASE_CACHE, BEST_PAIRS, PHOTOS))
    data = [f"--data={POOL}", f"--data_dir={data_dir}"]
    plan = [
        (BASE, f"{base}/model.json", ["import_weights", f"--from={SHIPPED}", f"--out={base}"]),
        (
            BASE_CACHE,
            f"{cache}/cache.json",
            ["cache_reference", f"--reference={base}", *data, f"--out={cache}"],
        ),
        *((BEST_PAIRS, made, words) for made, words in best_pairs(cache, best, data)),
        *(
            (
                PHOTOS,
                f"{photos}/{part}/manifest.json",
                ["prepare", "parquet", f"data/photos/{part}.parquet", f"--out={photos}/{part}"],
            )
            for part in ("pool", "curated", "test")
        ),
    ]  # fmt: skip
    needs = used | ({BASE, BASE_CACHE} if used & {BASE_CACHE, BEST_PAIRS, *PARTS} else set())
    return [
        ["python", "-m", f"jest_tf.{words[0]}", *words[1:]]
        for placeholder, made, words in plan
        if placeholder in needs and not Path(made).exists()
    ]


def best_pairs(cache: str, best: str, data: list[str]) -> list[tuple[str, list[str]]]:
    """What is made and the command's words: into `best`, the pairs that score best by `cache`."""
    table = f"{best}/audit.parquet"
    curate = ["curate", f"--audit={table}", *data, f"--top={BEST_SHARE}", "--by=reference_score"]
    return [
        (table, ["audit", *data, f"--reference={cache}", f"--out={table}"]),
        (f"{best}/manifest.json", [*curate, f"--out={best}"]),
    ]


# Records of a shard: of a run of neighbours, four of which a lane reads side by side; of others.
RUN, SHARD = 160, 1000


def write_parts(parts: list[str], pool: Manifest, placeholders: Mapping[str, str]) -> None:
    """Copies parts of the pool, by the base's embeddings and the captions."""
    zimg, ztxt, captions = bq.read(ReferenceCache.load(placeholders[BASE_CACHE]))
    score = (zimg * ztxt).sum(axis=1)
    rows_of = {
        CLUSTERED: lambda: bq.cluster_order(ztxt),
        BALANCED: lambda: balanced(score, captions),
        TENTH: lambda: np.sort(np.argsort(-score)[: len(score) // 10]),
    }
    records = [record for shard in pool.shards for record in records_of(shard)]
    for part in parts:
        path, rows, shards = Path(placeholders[part]), rows_of[part](), []
        path.parent.mkdir(parents=True, exist_ok=True)
        size = RUN if part == CLUSTERED else SHARD
        for start in range(0, len(rows), size):
            file = path.parent / f"part-{start:05d}.tfrecord"
            some = [records[row] for row in rows[start : start + size]]
            shards.append(write_shard(file, some, source=0))
        Manifest(f"{pool.name}, {part.strip('{}')}", pool.sources, tuple(shards)).save(str(path))


def balanced(score: np.ndarray, captions: list[bytes]) -> np.ndarray:
    """Half of the better 60% of rows, of captions with rare words more than of others.

    As MetaCLIP balances: a row stays with the chance min(1, t / count) of its rarest word.
    """
    rows = np.argsort(-score)[: round(2 * BEST_SHARE * len(score))]
    words = [set(re.findall(rb"\w+", captions[row].lower())) for row in rows]
    counts = Counter(itertools.chain.from_iterable(words))
    rarest = np.array([min((counts[w] for w in some), default=len(rows)) for some in words])
    draws = np.random.default_rng(0).random(len(rows))
    return np.sort(rows[np.argsort(draws * rarest)[: len(rows) // 2]])


def write_clean_part(pool: Manifest, path: str) -> None:
    """Copies the records that are labelled clean, shard by shard, and writes their manifest.

    An oracle: no method knows these labels. It bounds what rejecting all noise can give.
    """
    folder = Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)

    def is_clean(record: bytes) -> bool:
        features = tf.train.Example.FromString(record).features.feature
        return features["noise"].bytes_list.value[0].decode() == CLEAN

    shards = []
    for number, shard in enumerate(pool.shards):
        kept = list(filter(is_clean, records_of(shard)))
        shards.append(write_shard(folder / f"clean-{number:05d}.tfrecord", kept, shard.source))
    Manifest(f"{pool.name}, clean rows", pool.sources, tuple(shards)).save(path)


def records_of(shard: Shard) -> Iterator[bytes]:
    """The serialized records of a shard."""
    records = tf.data.TFRecordDataset(shard.path).skip(shard.start).take(shard.records)
    return records.as_numpy_iterator()


def write_shard(file: Path, records: list[bytes], source: int) -> Shard:
    """A new shard of these records."""
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in records:
            writer.write(record)
    return Shard(str(file.absolute()), len(records), source, bytes=file.stat().st_size)
