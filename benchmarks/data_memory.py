"""Memory of the commands that go through a data set, on synthetic records, as JSON lines.

    python -m benchmarks.data_memory [--tools=curate,import,check,prepare,ids] [--scale=5]

Each tool runs in a process of its own. `curate` holds columns: it runs with a quarter of the rows
and with all, and what a record more takes tells the peak at ten million, which is to stay below
1.5 GB. The others are streams: their growth in the second half of the time tells it. They keep no
more of a record than its id: `ids` does that alone. At --scale=1 this takes some ten minutes on one
core, with pictures of 16 px; `curate` and `ids` have ten million records at --scale=5.
"""

import argparse
import io
import json
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from PIL import Image

from benchmarks.figures import emit
from benchmarks.timing import in_own_process, resident_bytes
from jest_tf.data import doctor, prepare, subset
from jest_tf.data.fields import example
from jest_tf.data.manifest import Manifest, Shard, Source
from jest_tf.data.reference_cache import CacheWriter
from jest_tf.data.reference_fill import StoredEmbeddings
from jest_tf.data.sorted_runs import SortedRuns
from jest_tf.monitoring.audit import ABOUT
from jest_tf.monitoring.choosing import Choice

TARGET = 10_000_000
BLOCK = 2_000  # records of a file or row group: small beside what is measured
DIM = 8


def blocks(n: int, length: int = BLOCK) -> Iterator[np.ndarray]:
    """Record numbers, a block at a time."""
    for first in range(0, n, length):
        yield np.arange(first, min(n, first + length))


def png() -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, [16, 16, 3], np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write_parquet(path: pathlib.Path, tables: Iterable[pa.Table]) -> None:
    writer = None
    for table in tables:
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def audit_rows(numbers: np.ndarray) -> pa.Table:
    rng = np.random.default_rng(numbers[0])
    n = len(numbers)
    columns = {
        "key": [f"{i // 10_000:05d}.tar:{hash((i, 1)) % 2**64:032x}" for i in numbers.tolist()],
        "id": numbers,
        "source": [f"source {i % 7}" for i in numbers.tolist()],
        "caption": [f"a picture of thing {i} and what else is there" for i in numbers.tolist()],
        "content_hash": rng.integers(-(2**63), 2**63 - 1, n),
        "reference_score": rng.random(n, np.float32),
        "verdict": np.array(["useful", "learned", "wrong pair"])[rng.integers(0, 3, n)].tolist(),
    }
    return pa.table(columns).replace_schema_metadata({ABOUT: json.dumps({"data": ""}).encode()})


def make_curate(root: pathlib.Path, n: int) -> None:
    write_parquet(root / "audit.parquet", map(audit_rows, blocks(n, 50_000)))


def run_curate(root: pathlib.Path) -> None:
    choice = Choice(str(root / "audit.parquet"))
    choice.keep('verdict != "wrong pair"')
    choice.dedup(1, "reference_score")
    choice.top(0.5, "reference_score", True)
    choice.write_rows(str(root / "keys.parquet"))
    np.save(root / "uids.npy", subset.uids(choice.kept_keys()))


def make_records(root: pathlib.Path, n: int) -> None:
    """A manifest of n records, each with a caption of its own and the same small picture."""
    shards, picture = [], png()
    for numbers in blocks(n):
        path = root / f"{numbers[0]:09d}.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for i in numbers.tolist():
                caption = f"a picture of thing {i} and what else is there".encode()
                writer.write(example({"id": [i], "image": [picture], "captions": [caption]}))
        shards.append(Shard(str(path), len(numbers), bytes=path.stat().st_size))
    sources = (Source("made", id="id", captions="captions"),)
    Manifest("made", sources, tuple(shards)).save(str(root / "manifest.json"))


def run_check(root: pathlib.Path) -> None:
    doctor.examine(Manifest.load(str(root / "manifest.json")))


def make_import(root: pathlib.Path, n: int) -> None:
    make_records(root, n)

    def rows(numbers: np.ndarray) -> pa.Table:
        values = pa.array(np.random.default_rng(0).random(len(numbers) * DIM, np.float32))
        z = pa.ListArray.from_arrays(np.arange(0, len(values) + 1, DIM, np.int32), values)
        return pa.table({"id": numbers, "zimg": z, "ztxt": z})

    write_parquet(root / "z.parquet", map(rows, blocks(n)))


def run_import(root: pathlib.Path) -> None:
    manifest = Manifest.load(str(root / "manifest.json"))
    of_model = {"identity": {}, "dim": DIM, "scale": 10.0, "bias": -5.0}
    writer = CacheWriter(str(root / "cache"), manifest, **of_model)
    writer.fill(StoredEmbeddings([str(root / "z.parquet")], DIM).rows)
    writer.finish()


def make_prepare(root: pathlib.Path, n: int) -> None:
    """A table of n rows that name one picture."""
    (root / "a.png").write_bytes(png())
    with open(root / "table.tsv", "w") as file:
        file.write("filepath\ttitle\n")
        file.writelines(f"a.png\ta picture of thing {i} and what else\n" for i in range(n))


def run_prepare(root: pathlib.Path) -> None:
    prepare.prepare(
        prepare.Settings("csv", (str(root / "table.tsv"),), str(root / "out"), workers=2)
    )


def make_ids(root: pathlib.Path, n: int) -> None:
    (root / "n").write_text(str(n))


def run_ids(root: pathlib.Path) -> None:
    """All that the streams keep of each record: its id, to count repeated ones and to find it."""
    places = SortedRuns()
    for part, numbers in enumerate(blocks(int((root / "n").read_text()))):
        ids = np.random.default_rng(part).integers(0, 2**63 - 1, len(numbers))
        places.add(ids, part)
    places.n_repeated()
    places.find(ids)


TOOLS: dict[str, tuple[Callable, Callable, int]] = {  # name -> (make, run, records at scale 1)
    "curate": (make_curate, run_curate, 2_000_000),
    "import": (make_import, run_import, 400_000),
    "ids": (make_ids, run_ids, 2_000_000),
    "check": (make_records, run_check, 100_000),
    "prepare": (make_prepare, run_prepare, 60_000),
}


def measured(tool: str, n: int) -> dict:
    """`_measure` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        TOOLS[tool][0](pathlib.Path(folder), n)
        return in_own_process("benchmarks.data_memory", f"--measure={tool}:{folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", default=",".join(TOOLS), help="comma-separated")
    parser.add_argument("--scale", type=float, default=1.0, help="times the usual records")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # what this very process is for
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(_measure(*args.measure.split(":", 1))))
        return
    for tool in args.tools.split(","):
        n = int(args.scale * TOOLS[tool][2])
        whole = measured(tool, n)
        if tool == "curate":
            per_record = (whole["peak"] - measured(tool, n // 4)["peak"]) / (n - n // 4)
        else:
            per_record = (whole["peak"] - whole["peak_at_half"]) / (n / 2)
        at_target = whole["peak"] + per_record * max(0, TARGET - n)
        emit("data_memory", at_target / 1e9, "< 1.5", "GB", tool=tool, records=n,
             bytes_per_record=per_record, peak_gb=whole["peak"] / 1e9,
             seconds=whole["seconds"], per_cpu_second=n / whole["cpu"])  # fmt: skip


def _measure(tool: str, root: str) -> dict:
    """{peak, peak_at_half: bytes, seconds, cpu: seconds} of a tool in this process."""
    peaks, done = [], threading.Event()

    def sample() -> None:
        while not done.wait(0.2):
            peaks.append(resident_bytes("VmHWM"))

    sampler = threading.Thread(target=sample)
    sampler.start()
    start = time.perf_counter(), time.process_time()
    TOOLS[tool][1](pathlib.Path(root))
    seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    done.set()
    sampler.join()
    peak = resident_bytes("VmHWM")
    return {
        "peak": peak,
        "peak_at_half": [peak, *peaks][len(peaks) // 2],
        "seconds": seconds,
        "cpu": cpu,
    }


if __name__ == "__main__":
    main()
