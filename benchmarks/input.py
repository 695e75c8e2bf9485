"""What the input pipeline reaches, as JSON lines.

    python -m benchmarks.input [--figures=pipeline_over_bare,resume_seconds,...] [--update_docs]
    python -m benchmarks.input --figures=cached_score_error,… --reference=runs/reference
    python -m benchmarks.input --figures=prepare_over_bare,prepare_two_processes,… \
        --img2dataset=OTHER_VENV/bin/python

The images are 512 px and 256 px JPEGs cut from scikit-image's photographs. Compared programs take
turns and their fastest round counts, so that a busy machine slows all alike. `input_wait_share`
trains the emoji config for a few steps. `--reference` is a finished reference run of that config:
`cached_score_error` needs it, and `input_wait_share` without it scores by the learner alone.
Needs the extra `bench`.
"""

import argparse
import dataclasses
import io
import itertools
import json
import multiprocessing
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks import cached_scores, prepare_rates, tars_in_place
from benchmarks.figure_page import INPUT
from benchmarks.figures import emit
from benchmarks.timing import in_own_process, peak_extra_bytes
from examples.emoji import builder as emoji  # noqa: F401 - registers the set with TFDS
from jest_tf.data import pipeline, prepare, preprocess
from jest_tf.data.manifest import Manifest, Shard
from jest_tf.data.sources import open_source
from jest_tf.data.tokenizer import Tokenizer, train_wordpiece
from jest_tf.selection import SelectionSpec
from jest_tf.training.cache_fill import cache_of_run
from jest_tf.training.run.restore import load_workdir

SIZE = 224  # what a B/16 or B/32 reads
CAPTIONS = ("a photograph of a cat", "an astronaut and a rocket", "a cup of coffee on a table")
MEMORY_BATCH = 8192
N_RECORDS = 768
ROUNDS = 4
RESUME_SHARDS = 1000
WAIT_STEPS = 60


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figures", default=",".join(FIGURES), help="comma-separated")
    parser.add_argument("--data_dir", default="data/prepared", help="where TFDS keeps its sets")
    parser.add_argument("--reference", help="a finished reference run")
    parser.add_argument("--img2dataset", help="a Python that has img2dataset")
    parser.add_argument(
        "--update_docs", action="store_true", help="keep the figures, and show them in docs/data.md"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # what this very process is for
    args = parser.parse_args(argv)
    if args.measure:
        what, root = args.measure.split(":", 1)
        print(json.dumps(IN_OWN_PROCESS[what](pathlib.Path(root))))
        return
    names = args.figures.split(",")
    if unknown := set(names) - set(FIGURES):
        parser.error(f"unknown figure(s) {sorted(unknown)}; known: {', '.join(FIGURES)}")
    if not args.reference:
        names = [name for name in names if name != "cached_score_error"]
    with tempfile.TemporaryDirectory() as folder:
        data = BenchData(pathlib.Path(folder))
        for name in names:
            lines = FIGURES[name](data, args)
            if args.update_docs:
                INPUT.keep(lines)


class BenchData:
    """The benchmark's data sets, each made when first asked for."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.tokenizer_path = str(root / "vocab.txt")
        train_wordpiece(list(CAPTIONS) * 50, 200, self.tokenizer_path)
        self.tokenizer = Tokenizer(self.tokenizer_path, 16)

    def tars(self, side: int) -> list[str]:
        """WebDataset tars of N_RECORDS JPEGs of this side, by webdataset's own writer."""
        folder = self.root / f"tars{side}"
        if not folder.exists():
            import webdataset

            folder.mkdir()
            images = photographs(side)
            for shard in range(8):
                with webdataset.TarWriter(str(folder / f"{shard:03d}.tar")) as writer:
                    for n in range(shard, N_RECORDS, 8):
                        text = CAPTIONS[n % len(CAPTIONS)]
                        image = images[n % len(images)]
                        writer.write({"__key__": f"{n:06d}", "jpg": image, "txt": text})
        return sorted(map(str, folder.glob("*.tar")))

    def prepared(self, side: int, max_side: int | None = None) -> Manifest:
        """The same records after `prepare`."""
        out = self.root / f"prepared{side}-{max_side}"
        if not out.exists():
            tars = tuple(self.tars(side))
            prepare.prepare(prepare.Settings("webdataset", tars, str(out), max_side=max_side))
        return Manifest.load(str(out / "manifest.json"))


def photographs(side: int) -> list[bytes]:
    """JPEGs of side x side: crops of scikit-image's photographs, flips included."""
    from skimage import data as photos

    encoded = []
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        pixels = Image.fromarray(getattr(photos, name)()).convert("RGB")
        shorter = min(pixels.size)
        for left in range(0, max(1, pixels.width - shorter + 1), 64):
            crop = pixels.crop((left, 0, left + shorter, shorter)).resize((side, side))
            for picture in (crop, crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
                out = io.BytesIO()
                picture.save(out, "JPEG", quality=90)
                encoded.append(out.getvalue())
    return encoded


def records_per_second(makers: dict[str, Callable[[], Iterator]], batch: int) -> dict[str, float]:
    """Records/s of each endless iterator of batches; they take turns, the fastest round counts."""
    iterators = {name: make() for name, make in makers.items()}
    n = max(1, N_RECORDS // batch)
    best = dict.fromkeys(makers, float("inf"))
    for _ in range(ROUNDS):
        for name, iterator in iterators.items():
            # What was prefetched while the others had their turn must not count as this one's work.
            for _ in range(3):
                next(iterator)
            start = time.perf_counter()
            for _ in range(n):
                next(iterator)
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: n * batch / seconds for name, seconds in best.items()}


def super_batches(data: BenchData, manifest: Manifest, batch: int = 256) -> Iterator:
    return iter(
        pipeline.super_batches(
            manifest, data.tokenizer, super_batch=batch, image_size=SIZE, seed=0, n_lanes=4
        )
    )


def bare(manifest: Manifest, side: int, resize: Callable, batch: int = 256) -> Iterator:
    """The same pictures by decode and `resize` alone in the shortest tf.data pipeline: no order, no
    guards, no texts."""
    spec = {"image": tf.io.FixedLenFeature([], tf.string)}
    ratio = 2 if side >= 2 * SIZE else 1

    def read(serialized):
        image = tf.io.parse_single_example(serialized, spec)["image"]
        return resize(tf.io.decode_jpeg(image, 3, ratio=ratio))

    files = tf.data.TFRecordDataset([shard.path for shard in manifest.shards])
    images = files.repeat().map(read, num_parallel_calls=tf.data.AUTOTUNE)
    return iter(images.batch(batch).prefetch(1))


def _tensorflows_resize(image: tf.Tensor) -> tf.Tensor:
    image = tf.image.resize(image, [SIZE, SIZE], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


RESIZES = {
    "tf.image.resize": _tensorflows_resize,
    "our resize": lambda image: preprocess.fit(image[None], SIZE)[0],
}


def pipeline_over_bare(data: BenchData, args: argparse.Namespace) -> list[dict]:
    lines = []
    for side in (512, 256):
        manifest = data.prepared(side)
        makers = {"pipeline": lambda m=manifest: super_batches(data, m)}
        for name, resize in RESIZES.items():
            makers[name] = lambda m=manifest, s=side, r=resize: bare(m, s, r)
        rate = records_per_second(makers, 256)
        for name in RESIZES:
            lines.append(
                emit("pipeline_over_bare", rate["pipeline"] / rate[name], ">= 0.9", "x",
                     source_px=side, bare_resize=name, records_per_second=rate)
            )  # fmt: skip
    return lines


def prepared_speedup(data: BenchData, args: argparse.Namespace) -> list[dict]:
    makers = {
        "originals": lambda: super_batches(data, data.prepared(512)),
        "prepared": lambda: super_batches(data, data.prepared(512, SIZE)),
    }
    rate = records_per_second(makers, 256)
    return [
        emit("prepared_speedup", rate["prepared"] / rate["originals"], ">= 1.8", "x",
             source_px=512, prepared_px=SIZE, records_per_second=rate)
    ]  # fmt: skip


def vs_webdataset_pil(data: BenchData, args: argparse.Namespace) -> list[dict]:
    n_processes = multiprocessing.cpu_count()
    rates = {"pipeline": [], "webdataset": []}
    ours = super_batches(data, data.prepared(512))
    next(ours)
    for _ in range(3):
        rates["webdataset"].append(_webdataset_rate(data.tars(512), n_processes))
        rates["pipeline"].append(records_per_second({"pipeline": lambda: ours}, 256)["pipeline"])
    best = {name: max(values) for name, values in rates.items()}
    return [
        emit("vs_webdataset_pil", best["pipeline"] / best["webdataset"], ">= 1.2", "x",
             source_px=512, processes=n_processes, records_per_second=best)
    ]  # fmt: skip


def _webdataset_rate(tars: list[str], n_processes: int) -> float:
    """Records/s of n processes that share the tars, from when all of them are ready."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(n_processes), context.Queue()
    shares = [tars[i::n_processes] for i in range(n_processes)]
    workers = [
        context.Process(target=_webdataset_worker, args=(share, barrier, results))
        for share in shares
    ]
    for worker in workers:
        worker.start()
    spans = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    seconds = max(end for _, end, _ in spans) - min(begin for begin, _, _ in spans)
    return sum(count for _, _, count in spans) / seconds


def _webdataset_worker(tars: list[str], barrier, results) -> None:
    import webdataset

    def transform(image):
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))

    dataset = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)
    dataset = (
        dataset.decode("pilrgb").to_tuple("jpg", "txt").map_tuple(transform, lambda text: text)
    )
    next(iter(dataset))
    barrier.wait()
    begin = time.time()
    count = sum(1 for _ in itertools.chain(dataset))
    results.put((begin, time.time(), count))


def pipeline_memory_ratio(data: BenchData, args: argparse.Namespace) -> list[dict]:
    data.prepared(256)
    found = in_own_process("benchmarks.input", f"--measure=memory:{data.root}")
    return [
        emit("pipeline_memory_ratio", found["peak_bytes"] / found["super_batch_bytes"], "<= 3", "x",
             super_batch=MEMORY_BATCH, source_px=256, image_px=SIZE, **found)
    ]  # fmt: skip


def _measure_memory(root: pathlib.Path) -> dict:
    manifest = Manifest.load(str(root / "prepared256-None" / "manifest.json"))
    tokenizer = Tokenizer(str(root / "vocab.txt"), 16)
    tf.constant(0).numpy()  # the runtime itself is idle memory

    def run():
        dataset = pipeline.super_batches(
            manifest, tokenizer, super_batch=MEMORY_BATCH, image_size=SIZE, seed=0
        )
        for batch in itertools.islice(dataset, 3):
            last = batch["image"]
        return last[0, 0]

    peak = peak_extra_bytes(run)
    return {"peak_bytes": peak, "super_batch_bytes": MEMORY_BATCH * SIZE * SIZE * 3}


def resume_seconds(data: BenchData, args: argparse.Namespace) -> list[dict]:
    """From the start of building the pipeline to the first super-batch, in new processes."""
    source = data.prepared(256)
    records = list(tf.data.TFRecordDataset(source.shards[0].path).as_numpy_iterator())
    shards = []
    for index in range(RESUME_SHARDS):
        path = data.root / f"resume-{index:05d}.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for n in range(64):
                writer.write(records[(index + n) % len(records)])
        shards.append(Shard(str(path), 64, bytes=path.stat().st_size))
    manifest = Manifest("thousand", source.sources, tuple(shards))
    manifest.save(str(data.root / "resume.json"))
    found = [in_own_process("benchmarks.input", f"--measure=resume:{data.root}") for _ in range(3)]
    seconds, middle = sorted((one.pop("seconds"), at) for at, one in enumerate(found))[1]
    return [
        emit("resume_seconds", seconds, "< 2", "s", shards=RESUME_SHARDS,
             records=manifest.n_records, **found[middle])
    ]  # fmt: skip


def _measure_resume(root: pathlib.Path) -> dict:
    manifest = Manifest.load(str(root / "resume.json"))
    tokenizer = Tokenizer(str(root / "vocab.txt"), 16)
    step = int(0.9 * manifest.n_records / 256)
    bytes_before, start, cpu_start = _bytes_read(), time.perf_counter(), time.process_time()
    dataset = pipeline.super_batches(
        manifest, tokenizer, super_batch=256, image_size=SIZE, seed=0, start_step=step
    )
    next(iter(dataset))
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
        "read_share": (_bytes_read() - bytes_before) / sum(s.bytes for s in manifest.shards),
        "step": step,
    }


def _bytes_read() -> int:
    """What this process has asked its files for so far, from a cache or not (Linux)."""
    counters = pathlib.Path("/proc/self/io").read_text().split()
    return int(counters[counters.index("rchar:") + 1])


def input_wait_share(data: BenchData, args: argparse.Namespace) -> list[dict]:
    """Of a short training run's time, as the run itself logs it.

    With --reference the shipped config. In any case by the learner alone too: such a step loads as
    many examples and runs one model less on them, so it waits for a larger share of its time.
    """
    runs = {"hard_learner": []}
    if args.reference:
        runs["learnability"] = [f"--config.reference.workdir={args.reference}"]
    lines = []
    for criterion, flags in runs.items():
        workdir = data.root / criterion
        config = f"configs/emoji.py:policy=joint,criterion={criterion},steps={WAIT_STEPS}"
        command = [sys.executable, "-m", "jest_tf.train", f"--config={config}", *flags]
        command += [f"--workdir={workdir}", f"--config.data.data_dir={args.data_dir}"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        metrics = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        shares = [row["input/wait_share"] for row in metrics if "input/wait_share" in row]
        lines.append(
            emit("input_wait_share", shares[-1], "<= 0.05", "of the time", steps=WAIT_STEPS,
                 super_batch=640, criterion=criterion)
        )  # fmt: skip
    return lines


def cached_score_error(data: BenchData, args: argparse.Namespace) -> list[dict]:
    """Largest difference of a logit, of all pairs of three super-batches of the emoji config."""
    run = load_workdir(args.reference)
    pool = open_source("tfds:emoji_captions/pool:train", args.data_dir)
    manifest = dataclasses.replace(pool, shards=pool.shards[:2])
    spec = SelectionSpec(640, 128)
    lines = []
    for dtype in ("float16", "bfloat16"):
        folder = str(data.root / dtype)
        cache = cache_of_run(run, manifest, folder, dtype=dtype).finish()
        found = cached_scores.compare(run, manifest, cache, spec, n_steps=3)
        bound = cached_scores.tolerance(cache.scale, dtype)
        lines.append(
            emit("cached_score_error", found["largest_logit_error"], f"<= {bound:.2g}", "",
                 dtype=dtype, super_batch=640, scale=cache.scale, step=run.step,
                 picks_shared=found["picks_shared"])
        )  # fmt: skip
    return lines


IN_OWN_PROCESS = {"memory": _measure_memory, "resume": _measure_resume}
FIGURES = {
    "pipeline_over_bare": pipeline_over_bare,
    "prepared_speedup": prepared_speedup,
    "vs_webdataset_pil": vs_webdataset_pil,
    "pipeline_memory_ratio": pipeline_memory_ratio,
    "resume_seconds": resume_seconds,
    "input_wait_share": input_wait_share,
    "cached_score_error": cached_score_error,
    "prepare_over_bare": prepare_rates.prepare_over_bare,
    "prepare_two_processes": prepare_rates.prepare_two_processes,
    "audit_pairs_per_second": prepare_rates.audit_pairs,
    "tars_in_place": tars_in_place.tars_in_place,
}


if __name__ == "__main__":
    main()
