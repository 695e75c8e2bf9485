"""What all cells read, made once before the first: cells may run side by side."""

from collections.abc import Iterable
from pathlib import Path

import tensorflow as tf

from benchmarks.evidence.grid import CLEAN_POOL, Cell
from examples.emoji import builder as emoji  # noqa: F401 - registers the set with TFDS
from jest_tf.data.manifest import Manifest, Shard
from jest_tf.data.sources import open_source
from jest_tf.monitoring.labels import CLEAN
from jest_tf.training.inputs import find_vocabulary

POOL = "tfds:emoji_captions/pool:train"


def prepare(cells: Iterable[Cell], data_dir: str, clean_pool: str) -> None:
    """Prepares data sets and vocabulary of the cells, and the clean part of the pool if asked for.

    Args:
      data_dir: where TFDS keeps its sets.
      clean_pool: path of the manifest to make.
    """
    sources, vocabularies = {POOL}, {}
    for cell in cells:
        config = cell.config
        sources |= {config.data.train, *(e.data for e in config.evals.values())}
        vocabularies[config.data.vocab_from, config.data.vocab_size] = config
    if CLEAN_POOL in sources and not Path(clean_pool).exists():
        write_clean_part(open_source(POOL, data_dir), clean_pool)
    for source in sources - {CLEAN_POOL}:
        open_source(source, data_dir)
    for config in vocabularies.values():
        config = config.copy_and_resolve_references()
        config.data.data_dir = data_dir
        find_vocabulary(config)


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
