"""What the search page costs over HTTP, as JSON lines.

    python -m benchmarks.serving [--export=EXPORT] [--images=100000] [--clients=50] [--seconds=60]

Starts `jest serve` in a process of its own, on an index of random embeddings whose pictures are
thumbnails in the index. `query`: one client asks for texts one after the other. `load`: many
clients at once, each asks anew as soon as it has its answer: texts, pictures of the result, and
uploads. Measure on an idle machine.
"""

import http.client
import io
import itertools
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

import numpy as np
from absl import flags
from PIL import Image

from benchmarks.figures import emit
from benchmarks.monitoring import random_export, unit
from benchmarks.timing import resident_bytes
from jest_tf import cli
from jest_tf.serving.encoders import read_info
from jest_tf.serving.image_index import ImageIndex, Item

FLAGS = flags.FlagValues()
_EXPORT = flags.DEFINE_string(
    "export", "", "Model; by default a mu with random weights.", flag_values=FLAGS
)
_IMAGES = flags.DEFINE_integer("images", 100_000, "Rows of the index.", flag_values=FLAGS)
_CLIENTS = flags.DEFINE_integer("clients", 50, "Clients at once.", flag_values=FLAGS)
_SECONDS = flags.DEFINE_float("seconds", 60.0, "How long they ask.", flag_values=FLAGS)
_QUERIES = flags.DEFINE_integer("queries", 100, "Of the single client.", flag_values=FLAGS)

WORDS = ("red", "apple", "wooden", "table", "two", "dogs", "blue", "hats", "old", "trees", "snow")
# Of ten requests of a client: texts, then pictures, then an upload.
MIX = ("text",) * 6 + ("picture",) * 3 + ("upload",)


def main(_: list[str]) -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        export = _EXPORT.value or random_export(folder, "mu")[0]
        upload = make_index(folder / "index", export, _IMAGES.value)
        context = {"images": _IMAGES.value, "model": _EXPORT.value or "mu, random weights"}
        with Server(folder / "index") as server:
            query_row(server, context)
            load_rows(server, upload, context)


def make_index(path: pathlib.Path, export: str, n: int) -> bytes:
    """Writes an index of n random rows with small pictures; returns one of these."""
    rng, info = np.random.default_rng(0), read_info(export)
    model = {"path": str(pathlib.Path(export).resolve()), "fingerprint": info["fingerprint"]}
    index = ImageIndex.create(path, info["embed_dim"], model)
    thumbnails = []
    for _ in range(200):
        out = io.BytesIO()
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).resize((128, 128)).save(out, "JPEG")
        thumbnails.append(out.getvalue())
    items = [Item(f"set#{i}", f"caption {i}") for i in range(n)]
    index.add(items, unit(rng, n, info["embed_dim"]), [thumbnails[i % 200] for i in range(n)])
    return thumbnails[0]


class Server:
    """`jest serve` in a process of its own."""

    def __init__(self, index: pathlib.Path):
        self._words = ["-m", "jest_tf.serve", f"--index={index}", "--port=0"]

    def __enter__(self) -> "Server":
        self._process = subprocess.Popen(
            [sys.executable, *self._words], stdout=subprocess.PIPE, text=True
        )
        line = self._process.stdout.readline()
        found = re.search(r"http://([\d.]+):(\d+)/", line)
        if not found:
            raise RuntimeError(f"jest serve did not start: {line}")
        self.address = found[1], int(found[2])
        return self

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.wait()

    def resident_bytes(self) -> int:
        return resident_bytes(pid=self._process.pid)


def query_row(server: Server, context: dict) -> None:
    """One client, one text after the other."""
    connection = http.client.HTTPConnection(*server.address)
    texts = _texts(seed=0)
    for _ in range(3):
        _get(connection, f"/search?k=48&{next(texts)}")
    times = []
    for _ in range(_QUERIES.value):
        started = time.perf_counter()
        _get(connection, f"/search?k=48&{next(texts)}")
        times.append(1e3 * (time.perf_counter() - started))
    milliseconds = statistics.median(times)
    emit("http_query", milliseconds, "<= 150", "ms", numerator=milliseconds, denominator=1,
         repeats=len(times), context=context | {"slowest_ms": max(times), "k": 48})  # fmt: skip


def load_rows(server: Server, upload: bytes, context: dict) -> None:
    """Many clients at once."""
    deadline = time.monotonic() + _SECONDS.value
    times = {kind: [] for kind in MIX}
    errors: list[str] = []
    seen = [server.resident_bytes()]
    clients = [
        threading.Thread(target=_client, args=(server, i, deadline, upload, times, errors))
        for i in range(_CLIENTS.value)
    ]
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients):
        time.sleep(1.0)
        seen.append(server.resident_bytes())
    n = sum(map(len, times.values()))
    half = len(seen) // 2
    context = context | {"clients": _CLIENTS.value, "seconds": _SECONDS.value} | {
        f"{kind}_{name}_ms": 1e3 * float(np.quantile(of_kind, share))
        for kind, of_kind in times.items() if of_kind
        for name, share in (("median", 0.5), ("p99", 0.99))
    }  # fmt: skip
    common = {"repeats": 1, "context": context}
    emit("load_errors", len(errors) / n, "= 0", "share", numerator=len(errors), denominator=n,
         first=errors[:1], **common)  # fmt: skip
    emit("load_requests", n / _SECONDS.value, "", "1/s", numerator=n,
         denominator=_SECONDS.value, **common)  # fmt: skip
    growth = (max(seen[half:]) - max(seen[:half])) / 2**20
    emit("load_memory_growth", growth, "<= 50", "MiB", numerator=max(seen) / 2**20,
         denominator=seen[0] / 2**20, note="peak of the second half minus peak of the first; "
         "numerator: peak, denominator: before", **common)  # fmt: skip


def _client(server: Server, number: int, deadline: float, upload: bytes, times, errors) -> None:
    connection = http.client.HTTPConnection(*server.address, timeout=60)
    texts, row = _texts(seed=number), number
    for kind in itertools.islice(itertools.cycle(MIX), number % len(MIX), None):
        if time.monotonic() > deadline:
            return
        started = time.perf_counter()
        try:
            if kind == "text":
                answer = json.loads(_get(connection, f"/search?k=48&{next(texts)}"))
                row = answer["indexes"][0]["results"][number % 48]["row"]
            elif kind == "picture":
                _get(connection, f"/picture/index/{row}")
            else:
                _get(connection, "/embed", "POST", upload)
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            errors.append(repr(error))
            connection.close()
        times[kind].append(time.perf_counter() - started)


def _texts(seed: int):
    rng = np.random.default_rng(seed)
    while True:
        yield urllib.parse.urlencode({"text": " ".join(rng.choice(WORDS, 5))})


def _get(connection, path: str, method: str = "GET", body: bytes | None = None) -> bytes:
    connection.request(method, path, body, {"Content-Type": "image/jpeg"} if body else {})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {content[:200]}")
    return content


if __name__ == "__main__":
    cli.run(main, FLAGS)
