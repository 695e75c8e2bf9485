"""Ten million records, a thousand shards, and a file system that loses files for moments."""

import itertools
import os
import pathlib
import random
import threading
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from benchmarks.faults import tiny_run
from benchmarks.faults.results import Results
from benchmarks.timing import peak_extra_bytes
from jest_tf.data import pipeline
from jest_tf.data.formats.pairs import Settings, Unit
from jest_tf.data.formats.table import open_tables
from jest_tf.data.manifest import Manifest, Shard, Source
from jest_tf.data.retry import resilient_steps
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError

N_RECORDS, RECORDS_PER_SHARD = 10_000_000, 1000
N_SHARDS = 1000
FLAKY_STEPS, FLAKY_SHARDS = 3000, 16
SUPER_BATCH, SIDE, SEED = 64, 16, 0


def scale(results: Results, folder: pathlib.Path) -> int:
    """Measures all; returns 1 where the order changed or a lost shard was not told."""
    for measure in (_many_records, _long_table, _many_shards):
        measure(results, folder)
    return _flaky_files(results, folder)


def _many_records(results: Results, folder: pathlib.Path) -> None:
    """A manifest of ten million records, all of them in one real file that is listed often."""
    path = folder / "shard.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i in range(RECORDS_PER_SHARD):
            writer.write(tiny_run.serialized_pair(i, *tiny_run.pair(i)))
    shard = Shard(str(path), RECORDS_PER_SHARD, bytes=path.stat().st_size)
    manifest = Manifest("many", (_source(),), (shard,) * (N_RECORDS // RECORDS_PER_SHARD))
    saved = str(folder / "many.json")
    manifest.save(saved)
    for name, step in (("first", 0), ("resumed", N_RECORDS // SUPER_BATCH // 2)):
        seconds: list[float] = []

        def first_batch(step=step, seconds=seconds) -> tf.Tensor:
            began = time.perf_counter()
            batches = _batches(Manifest.load(saved), folder, step)
            seconds.append(time.perf_counter() - began)
            return next(batches)["id"]

        extra = peak_extra_bytes(first_batch)
        context = f"{N_RECORDS:,} records in {len(manifest.shards):,} shards; up to step {step:,}"
        results.add(
            f"scale_{name}_batch_memory", extra / 1e6, "a small part of the records", "MB",
            numerator=extra / 1e6, denominator=N_RECORDS / 1e6, repeats=1, context=context,
        )  # fmt: skip
        results.add(
            f"scale_{name}_batch_seconds", seconds[0], "seconds, whatever the step", "s",
            repeats=1, context=context,
        )  # fmt: skip


def _long_table(results: Results, folder: pathlib.Path) -> None:
    """A table of ten million rows, before the first picture of it is read."""
    table = folder / "long.tsv"
    with open(table, "wb") as file:
        file.write(b"filepath\ttitle\n")
        for begin in range(0, N_RECORDS, 1000):
            rows = (
                f"p/{i:08d}.jpg\ta caption of picture {i}\n" for i in range(begin, begin + 1000)
            )
            file.write("".join(rows).encode())
    began = time.perf_counter()
    units: list[Unit] = []
    settings = Settings("csv", (str(table),), out="", records_per_shard=RECORDS_PER_SHARD)
    extra = peak_extra_bytes(lambda: units.extend(open_tables(settings).units))
    results.add(
        "scale_table_memory", extra / 1e6, "a small part of the table", "MB",
        numerator=extra / 1e6, denominator=table.stat().st_size / 1e6, repeats=1,
        context=f"a table of {N_RECORDS:,} rows, cut into {len(units):,} units in "
        f"{time.perf_counter() - began:.0f} s",
    )  # fmt: skip
    table.unlink()


def _many_shards(results: Results, folder: pathlib.Path) -> None:
    """A thousand real files: time to the first super-batch, and files that are open at once."""
    data = tiny_run.write_data(folder / "shards", 16 * N_SHARDS, N_SHARDS)
    manifest = Manifest.load(str(data / "manifest.json"))
    began = time.perf_counter()
    batches = _batches(manifest, folder)
    next(batches)
    seconds = time.perf_counter() - began
    most_open = 0
    for _ in itertools.islice(batches, 16 * N_SHARDS // SUPER_BATCH):
        most_open = max(most_open, len(os.listdir("/proc/self/fd")))
    context = f"{N_SHARDS:,} shards of 16 records, all read once"
    results.add(
        "scale_shards_first_batch_seconds", seconds, "seconds", "s", repeats=1, context=context
    )
    results.add(
        "scale_shards_open_files", most_open, "far fewer than shards", "files",
        numerator=most_open, denominator=N_SHARDS, repeats=1, context=context,
    )  # fmt: skip


def _flaky_files(results: Results, folder: pathlib.Path) -> int:
    """Shards that vanish, or are cut, for moments: the same ids come; one that stays away stops."""
    data = tiny_run.write_data(folder / "flaky", 4096, FLAKY_SHARDS)
    manifest = Manifest.load(str(data / "manifest.json"))
    expected = _ids(itertools.islice(_batches(manifest, folder), FLAKY_STEPS))
    retries: list[str] = []

    def steps() -> Iterator:
        return resilient_steps(
            lambda step: _batches(manifest, folder, step), 0, manifest,
            max_retries=8, first_wait=0.02, report=retries.append,
        )  # fmt: skip

    disturbed = steps()
    first = next(disturbed)  # files that are wrong when a run starts are not waited for
    with _Disturbance([pathlib.Path(shard.path) for shard in manifest.shards]) as disturbance:
        found = _ids(itertools.chain([first], itertools.islice(disturbed, FLAKY_STEPS - 1)))
    n_different = int((found != expected).any(axis=1).sum())
    results.add(
        "scale_flaky_steps_that_differ", n_different, "0", "steps",
        numerator=n_different, denominator=FLAKY_STEPS, repeats=1,
        context=f"{disturbance.n} times a shard vanished or was cut for moments; "
        f"{len(retries)} retries",
    )  # fmt: skip
    began, message = time.perf_counter(), ""
    try:
        for step, _ in enumerate(steps()):
            if step == 0:
                pathlib.Path(manifest.shards[3].path).unlink()
                began = time.perf_counter()
    except UserError as error:
        message = str(error)
    is_named = manifest.shards[3].path in message
    results.add(
        "scale_lost_shard_is_named", int(is_named), "1", "", repeats=1,
        context=f"a shard removed for good stops the run after {time.perf_counter() - began:.1f} s "
        "of retries with a message that names it",
    )  # fmt: skip
    return int(n_different > 0 or not is_named)


class _Disturbance:
    """While inside, a thread renames files away or cuts them, and puts them back, one at a time."""

    def __init__(self, paths: list[pathlib.Path]):
        self._paths, self._end = paths, threading.Event()
        self._thread = threading.Thread(target=self._disturb)
        self.n = 0

    def _disturb(self) -> None:
        rng = random.Random(0)
        while not self._end.wait(rng.uniform(0, 0.3)):
            path = rng.choice(self._paths)
            aside = path.with_suffix(".aside")
            path.rename(aside)
            if rng.random() < 0.5:
                path.write_bytes(aside.read_bytes()[: rng.randrange(aside.stat().st_size)])
            self._end.wait(rng.uniform(0, 0.2))
            aside.rename(path)
            self.n += 1

    def __enter__(self) -> "_Disturbance":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._end.set()
        self._thread.join()


def _source() -> Source:
    return Source("shapes", image="image", captions="caption", id="id")


def _batches(manifest: Manifest, folder: pathlib.Path, step: int = 0) -> Iterator[dict]:
    path = folder / "vocab.txt"
    path.write_text("\n".join(tiny_run.WORDS) + "\n")
    return iter(
        pipeline.super_batches(
            manifest, Tokenizer(str(path), 8), super_batch=SUPER_BATCH, image_size=SIDE,
            seed=SEED, start_step=step,
        )
    )  # fmt: skip


def _ids(batches: Iterator[dict]) -> np.ndarray:
    return np.stack([batch["id"].numpy() for batch in batches])
