"""Figures of `benchmarks.input`: work on data sets beside the bare decoding of the same pictures.

The bare program opens each JPEG, shrinks it and encodes it with Pillow, in a loop over bytes in
memory. Rates are of processor time, so that other programs on the machine hardly matter and all
threads count; programs take turns and the fastest round counts. Two processes are told by the clock
and, for a machine that others use, by processor time: what a record then costs more.
"""

import argparse
import functools
import io
import json
import multiprocessing
import pathlib
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent import futures

import numpy as np
from PIL import Image

from benchmarks.figures import emit
from jest_tf.data import prepare
from jest_tf.data.manifest import Manifest
from jest_tf.data.records import shard_records
from jest_tf.data.reference_cache import CacheWriter
from jest_tf.monitoring import audit

SIDE, MAX_SIDE, QUALITY = 512, 256, 92
ROUNDS = 4
DIM = 512
IMG2DATASET = """
import io, json, sys, time, pathlib
from img2dataset.resizer import Resizer
files = [path.read_bytes() for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jpg"))]
resizer = Resizer(int(sys.argv[2]), "keep_ratio", True, encode_quality=int(sys.argv[3]))
best = float("inf")
for _ in range(int(sys.argv[4])):
    start = time.process_time()
    assert all(resizer(io.BytesIO(file))[0] for file in files)
    best = min(best, time.process_time() - start)
print(json.dumps(len(files) / best))
"""


def bare(images: list[bytes]) -> None:
    for image in images:
        picture = Image.open(io.BytesIO(image)).convert("RGB")
        scale = MAX_SIDE / min(picture.size)
        size = [round(side * scale) for side in picture.size]
        picture.resize(size, Image.Resampling.BICUBIC).save(io.BytesIO(), "JPEG", quality=QUALITY)


def webdataset_pil(tars: list[str]) -> None:
    """The same by webdataset's reader and writer."""
    import webdataset

    def shrink(picture):
        return picture.resize((MAX_SIDE, MAX_SIDE), Image.Resampling.BICUBIC)

    read = webdataset.WebDataset(tars, shardshuffle=False).decode("pilrgb")
    with webdataset.TarWriter(io.BytesIO()) as writer:
        for sample in read:
            key, text, picture = sample["__key__"], sample["txt"], shrink(sample["jpg"])
            writer.write({"__key__": key, "txt": text, "jpg": picture})


def prepared(kind: str, paths: tuple[str, ...], workers: int = 1, out: str | None = None) -> int:
    """Records that `prepare` writes into `out`, or into a folder that goes again."""
    if not out:
        with tempfile.TemporaryDirectory() as out:
            return prepared(kind, paths, workers, out)
    settings = prepare.Settings(kind, paths, out, max_side=MAX_SIDE, workers=workers)
    return prepare.prepare(settings, lambda text: None).records


def sources(root: pathlib.Path, tars: list[str]) -> tuple[dict[str, tuple[str, ...]], list[bytes]]:
    """(the records of these tars in each format, their pictures)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = root / "folder"
    folder.mkdir()
    images, texts = [], []
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member).read()
                (folder / member.name).write_bytes(content)
                (images if member.name.endswith("jpg") else texts).append(content)
    names = sorted(path.name for path in folder.glob("*.jpg"))
    rows = [f"{name}\ta picture" for name in names]
    (folder / "table.tsv").write_text("\n".join(["filepath\ttitle", *rows]))
    columns = {"image": images, "text": [text.decode() for text in texts]}
    pq.write_table(pa.table(columns), root / "0.parquet")
    found = {
        "webdataset": tuple(tars),
        "folder": (str(folder),),
        "csv": (str(folder / "table.tsv"),),
        "parquet": (str(root / "0.parquet"),),
    }
    return found, images


def rates(programs: dict[str, Callable[[], object]], n: int) -> dict[str, float]:
    """Records per second of processor time; they take turns, the fastest round counts."""
    best = dict.fromkeys(programs, float("inf"))
    for _ in range(ROUNDS):
        for name, program in programs.items():
            start = time.process_time()
            program()
            best[name] = min(best[name], time.process_time() - start)
    return {name: n / seconds for name, seconds in best.items()}


def prepare_over_bare(data, args: argparse.Namespace) -> list[dict]:
    tars = data.tars(SIDE)[:2]
    root = data.root / "sources"
    root.mkdir()
    paths, images = sources(root, tars)
    programs = {"bare": lambda: bare(images), "webdataset + PIL": lambda: webdataset_pil(tars)}
    programs |= {kind: functools.partial(prepared, kind, paths[kind]) for kind in paths}
    programs["webdataset"]()  # TensorFlow's decoder is traced once
    rate = rates(programs, len(images))
    if args.img2dataset:
        command = [args.img2dataset, "-c", IMG2DATASET, *paths["folder"]]
        command += map(str, (MAX_SIDE, QUALITY, ROUNDS))
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rate["img2dataset's resizer"] = json.loads(done.stdout.splitlines()[-1])
    return [
        emit("prepare_over_bare", rate[kind] / rate["bare"], ">= 0.8", "x", format=kind,
             source_px=SIDE, max_side=MAX_SIDE, repeats=ROUNDS, records_per_second=rate)
        for kind in paths
    ]  # fmt: skip


def _timed(tars: tuple[str, ...]) -> tuple[float, float, float, int]:
    """(begin, end, processor seconds, records), in a process of its own."""
    begin, busy = time.time(), time.process_time()
    records = prepared("webdataset", tars)
    return begin, time.time(), time.process_time() - busy, records


def prepare_two_processes(data, args: argparse.Namespace) -> list[dict]:
    """Two processes beside one that does half of the work."""
    tars = data.tars(SIDE)
    by_clock, by_processor = {1: 0.0, 2: 0.0}, {1: 0.0, 2: 0.0}
    with futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for warm in [True] + [False] * ROUNDS:
            for n in (2, 1):
                shares = [tuple(tars[i : i + 3]) for i in range(0, 3 * n, 3)]
                begins, ends, busy, records = zip(*pool.map(_timed, shares), strict=True)
                if not warm:
                    rate = sum(records) / (max(ends) - min(begins))
                    by_clock[n] = max(by_clock[n], rate)
                    by_processor[n] = max(by_processor[n], n * sum(records) / sum(busy))
    return [
        emit("prepare_two_processes", by_clock[2] / by_clock[1], ">= 1.8", "x", repeats=ROUNDS,
             by_processor_time=by_processor[2] / by_processor[1], records_per_second=by_clock)
    ]  # fmt: skip


def _decoded(manifest: Manifest) -> Iterator[Image.Image]:
    for shard in range(len(manifest.shards)):
        for record in shard_records(manifest, shard):
            yield Image.open(io.BytesIO(record.image)).convert("RGB")


def audit_pairs(data, args: argparse.Namespace) -> list[dict]:
    """Rows of an audit by cached embeddings, beside reading and decoding the same records."""
    manifest = data.prepared(MAX_SIDE)
    writer = CacheWriter(
        str(data.root / "embeddings"), manifest, identity={}, dim=DIM, scale=100.0, bias=-10.0
    )
    rng = np.random.default_rng(0)
    for index, shard in enumerate(manifest.shards):
        z = rng.normal(size=[2, shard.records, DIM]).astype(np.float32)
        z /= np.linalg.norm(z, axis=-1, keepdims=True)
        ids = [record.id for record in shard_records(manifest, index)]
        writer.write_shard(index, zip(ids, z[0], z[1][:, None], strict=True))
    audited = audit.Audit(manifest, reference=writer.finish())
    out = str(data.root / "audit.parquet")
    audit.begin(audited, out)
    unit, shards = audit.unit_of(audited, out), range(len(manifest.shards))
    programs = {
        "audit": lambda: [unit(shard) for shard in shards],
        "decode": lambda: [None for _ in _decoded(manifest)],
    }
    rate = rates(programs, manifest.n_records)
    return [
        emit("audit_pairs_per_second", rate["audit"], "", "pairs/s", width=DIM, repeats=ROUNDS,
             ranked_among=len(audited.others["reference"][0]), records_per_second=rate)
    ]  # fmt: skip
