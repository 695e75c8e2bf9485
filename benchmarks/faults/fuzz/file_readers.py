"""Readers of whole files: tars, JSON, tables, what a run writes, checkpoints."""

import hashlib
import io
import json
import pathlib
import shutil
import tarfile
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tensorflow as tf

from benchmarks.faults import tiny_run
from jest_tf.config import read_config
from jest_tf.data import cleaning
from jest_tf.data.formats import folder as folders
from jest_tf.data.formats import table, tar
from jest_tf.data.formats.pairs import Pair, Settings, Unit
from jest_tf.data.manifest import Manifest
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.errors import UserError
from jest_tf.evaluation.zero_shot import class_prompts
from jest_tf.monitoring.metrics_log import MetricsLog, read_metrics
from jest_tf.monitoring.samples import read_samples
from jest_tf.monitoring.tensorboard import cut_events
from jest_tf.training.run.checkpoint import MANIFEST, STATE, VARIABLES, Checkpointer, step_name

Read = Callable[[Sequence[bytes]], int]


def tar_seeds(_folder: pathlib.Path) -> list[bytes]:
    """Tars as img2dataset writes them, and one whose members try to leave the folder."""
    plain = {}
    for i in range(4):
        image, caption = tiny_run.pair(i)
        meta = json.dumps({"caption": caption.decode(), "key": f"{i}"}).encode()
        plain |= {f"{i:05d}.jpg": image, f"{i:05d}.txt": caption, f"{i:05d}.json": meta}
    outside = {"../../escaped.jpg": b"x", "/tmp/escaped.txt": b"x"}
    return [_tar(plain), _tar(plain, "w:gz"), _tar(outside)]


def _tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def tars(folder: pathlib.Path) -> Read:
    """Tars through the importer and the checks of `prepare`."""
    path = folder / "fuzzed.tar"

    def read(data: bytes) -> bool:
        path.write_bytes(data)
        (unit,) = tar.open_tars(Settings("webdataset", (str(path),), out="")).units
        return _judge(unit.read())

    return lambda inputs: sum(map(read, inputs))


def _judge(records: Iterable) -> bool:
    """Whether all records are pairs, after what `prepare` asks of them."""
    is_sound = True
    for record in records:
        if not isinstance(record, Pair):
            is_sound = False
            continue
        ((_, _, reason),) = cleaning.check_images([record.image], max_side=8)
        kept = cleaning.clean_captions(record.captions, cleaning.collections.Counter())
        is_sound &= reason is None and bool(kept)
    return is_sound


def json_seeds(folder: pathlib.Path) -> list[bytes]:
    """A manifest, a config, metrics, classes, and the description of a cache."""
    data = tiny_run.write_data(folder / "json_seeds", n_records=8, n_shards=2)
    metrics = '{"step": 1, "time": 2.0, "train/loss": "nan"}\n{"step": 2, "time": 3.0}\n'
    classes = {"classes": ["a cat", "a dog"], "templates": ["a photo of {}."]}
    config = {"data": {"n_tokens": 8}, "model": {"variant": "mu"}, "total_steps": 10}
    cache = {
        "version": 1, "identity": {}, "data": "0" * 16, "dim": 8, "dtype": "float16",
        "scale": 10.0, "bias": -10.0, "records": [4, 4],
    }  # fmt: skip
    return [
        (data / "manifest.json").read_bytes(),
        metrics.encode(),
        *(json.dumps(value).encode() for value in (classes, config, cache, ["a", "b"])),
    ]


def json_files(folder: pathlib.Path) -> Read:
    """Every reader of JSON gets every input."""
    (folder / "cache").mkdir(exist_ok=True)
    (folder / "run").mkdir(exist_ok=True)
    metrics = folder / "metrics.jsonl"

    def log(path: str) -> None:
        metrics.write_bytes(pathlib.Path(path).read_bytes())
        list(read_metrics(path))
        MetricsLog(metrics, 1).close()

    targets = {
        folder / "manifest.json": lambda path: Manifest.load(path),
        folder / "cache" / "cache.json": lambda _: ReferenceCache.load(str(folder / "cache")),
        folder / "run" / "config.json": lambda _: read_config(folder / "run"),
        folder / "lines.jsonl": log,
        folder / "classes.json": lambda path: class_prompts(path, "", ("cat", "dog")),
    }

    def read(data: bytes) -> bool:
        refused = 0
        for path, load in targets.items():
            path.write_bytes(data)
            refused += _is_refused(lambda path=path, load=load: load(str(path)))
        return refused < len(targets)

    return lambda inputs: sum(map(read, inputs))


def table_seeds(folder: pathlib.Path) -> list[bytes]:
    """open_clip's table, a captions file, and the hub's metadata, about two real pictures."""
    for i in range(2):
        (folder / f"{i}.jpg").write_bytes(tiny_run.pair(i)[0])
    return [
        b"filepath\ttitle\n0.jpg\ta red square\n1.jpg\tan apple\n",
        b'file,caption\n0.jpg,"a red, square"\n1.jpg,an apple\n',
        b'{"file_name": "0.jpg", "text": "a square"}\n{"file_name": "1.jpg", "caption": "x"}\n',
    ]


def tables(folder: pathlib.Path) -> Read:
    """Every table reader gets every input."""

    def units(name: str) -> Sequence[Unit]:
        path = str(folder / name)
        if name == "table.tsv":
            return table.open_tables(Settings("csv", (path,), out="", records_per_shard=10)).units
        settings = Settings("folder", (str(folder),), out="", records_per_shard=10, captions=path)
        return folders.open_folder(settings).units

    def read(data: bytes) -> bool:
        refused = 0
        for name in ("table.tsv", "captions.csv", "captions.jsonl"):
            (folder / name).write_bytes(data)
            refused += _is_refused(lambda name=name: [_judge(u.read()) for u in units(name)])
        return refused < 3

    return lambda inputs: sum(map(read, inputs))


def log_seeds(folder: pathlib.Path) -> list[bytes]:
    """An event file of TensorBoard and an archive of samples."""
    writer = tf.summary.create_file_writer(str(folder / "events"))
    with writer.as_default():
        for step in range(3):
            tf.summary.scalar("a", 1.0, step)
    writer.close()
    (events,) = (folder / "events").glob("events*")
    archive = io.BytesIO()
    np.savez_compressed(archive, group=np.array(["chosen"]), id=np.array([1]))
    return [events.read_bytes(), archive.getvalue()]


def logs(folder: pathlib.Path) -> Read:
    """What a resumed run cuts, and what the report shows."""
    events = folder / "cut" / "events.out.tfevents.1"
    events.parent.mkdir(exist_ok=True)
    samples = folder / "step-00000001.npz"

    def read(data: bytes) -> bool:
        events.write_bytes(data)
        cut_events(events.parent, 1)
        samples.write_bytes(data)
        return not _is_refused(lambda: read_samples(folder, 1))

    return lambda inputs: sum(map(read, inputs))


def checkpoint_seeds(folder: pathlib.Path) -> list[bytes]:
    """The three files of a checkpoint."""
    written = _checkpoint(folder / "seed")
    return [(written / name).read_bytes() for name in (VARIABLES, STATE, MANIFEST)]


def checkpoints(folder: pathlib.Path) -> Read:
    """The newest checkpoint with one file replaced, by chance and with a fitting checksum.

    Without it the previous checkpoint must be used; with it, the values or a UserError.
    """
    sound = _checkpoint(folder / "sound")
    root = folder / "mutated"
    names = (VARIABLES, STATE, MANIFEST)
    n_read = 0

    def read(data: bytes) -> bool:
        nonlocal n_read
        n_read += 1
        name, is_forged = names[n_read % 3], n_read % 2
        shutil.rmtree(root, ignore_errors=True)
        for step in (1, 2):
            shutil.copytree(sound.parent / step_name(step), root / step_name(step))
        newest = root / step_name(2)
        is_changed = (newest / name).read_bytes() != data
        (newest / name).write_bytes(data)
        if is_forged and name != MANIFEST:
            manifest = json.loads((newest / MANIFEST).read_text())
            digest = {"sha256": hashlib.sha256(data).hexdigest(), "n_bytes": len(data)}
            manifest["files"][name] = digest
            (newest / MANIFEST).write_text(json.dumps(manifest))
        restored = tf.Variable(tf.zeros([5]))
        state: dict = {}
        is_refused = _is_refused(
            lambda: state.update(Checkpointer(str(root)).restore({"a/b": restored}) or {})
        )
        if is_changed and name != MANIFEST and not is_forged and state != {"step": 1}:
            raise AssertionError(f"a damaged {name} was not passed over: {state}")
        return not is_refused

    return lambda inputs: sum(map(read, inputs))


def _checkpoint(root: pathlib.Path) -> pathlib.Path:
    writer = Checkpointer(str(root))
    for step in (1, 2):
        writer.save(step, {"a/b": tf.Variable(tf.range(5.0) * step)}, {"step": step})
    return root / step_name(2)


def _is_refused(action: Callable[[], object]) -> bool:
    try:
        action()
    except UserError:
        return True
    return False
