"""What all cells read, made once before the first: cells may run side by side."""

import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import tensorflow as tf

from benchmarks.evidence.grid import BASE, BASE_CACHE, BEST_PAIRS, CLEAN_POOL, PHOTOS, Cell
from examples.emoji import builder as emoji  # noqa: F401 - registers the set with TFDS
from jest_tf.data.manifest import Manifest, Shard
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
    for config in vocabularies.values():
        config = config.copy_and_resolve_references()
        config.data.data_dir = data_dir
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
    needs = used | ({BASE, BASE_CACHE} if used & {BASE_CACHE, BEST_PAIRS} else set())
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


def write_clean_part(pool: Manifest, path: str) -> None:
    """Copies the records that are labelled clean, shard by shard, and writes their manifest.

    An oracle: no method knows these labels. It bounds what rejecting all noise can give.
    """
    folder = Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for number, shard in enumerate(pool.shards):
        file = folder / f"clean-{number:05d}.tfrecord"
        kept = 0
        records = tf.data.TFRecordDataset(shard.path).skip(shard.start).take(shard.records)
        with tf.io.TFRecordWriter(str(file)) as writer:
            for record in records.as_numpy_iterator():
                features = tf.train.Example.FromString(record).features.feature
                if features["noise"].bytes_list.value[0].decode() == CLEAN:
                    writer.write(record)
                    kept += 1
        shards.append(Shard(str(file.absolute()), kept, shard.source, bytes=file.stat().st_size))
    Manifest(f"{pool.name}, clean rows", pool.sources, tuple(shards)).save(path)
