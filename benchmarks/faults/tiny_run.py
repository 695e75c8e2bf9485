"""The run that is mistreated: its data, its commands, and a start that costs no import."""

import io
import os
import pathlib
import runpy
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks.faults import tiny_config
from jest_tf.data.manifest import Manifest, Shard, Source

SIDE = 16
COLOURS = ("red", "green", "blue")
SHAPES = ("square", "bar", "frame")
WORDS = ("[PAD]", "[UNK]", "[EOS]", "a", *COLOURS, *SHAPES, *"0123456789", "##0", "##1", "##2")
N_RECORDS, N_SHARDS = 256, 4


def write_data(
    folder: pathlib.Path, n_records: int = N_RECORDS, n_shards: int = N_SHARDS
) -> pathlib.Path:
    """Writes captioned pictures as TFRecord shards, with `manifest.json` and `vocab.txt`.

    Every 50th record is no picture, as in data from the web. Returns the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for number in range(n_shards):
        path = str(folder / f"data-{number:05d}.tfrecord")
        ids = range(number, n_records, n_shards)
        with tf.io.TFRecordWriter(path) as writer:
            for i in ids:
                writer.write(serialized_pair(i, *pair(i)))
        shards.append(Shard(path, len(ids), bytes=os.path.getsize(path)))
    source = Source("shapes", image="image", captions="caption", id="id")
    Manifest("shapes", (source,), tuple(shards)).save(str(folder / "manifest.json"))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder


def pair(i: int) -> tuple[bytes, bytes]:
    """(image, caption) of record i: a coloured shape, or every 50th time no image."""
    rng = np.random.default_rng(i)
    colour, shape = rng.integers(len(COLOURS)), rng.integers(len(SHAPES))
    caption = f"a {COLOURS[colour]} {SHAPES[shape]} {i % 10}".encode()
    if i % 50 == 49:
        return b"no picture", caption
    picture = rng.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
    where = np.zeros((SIDE, SIDE), bool)
    where[4:12, 4:12] = True
    if shape == 1:
        where[:, 8:] = False
    if shape == 2:
        where[6:10, 6:10] = False
    picture[where, colour] = 240
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG" if i % 3 else "JPEG")
    return out.getvalue(), caption


def serialized_pair(i: int, image: bytes, caption: bytes) -> bytes:
    """A tf.train.Example with the features that the manifest of `write_data` names."""
    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])),
        "caption": tf.train.Feature(bytes_list=tf.train.BytesList(value=[caption])),
        "id": tf.train.Feature(int64_list=tf.train.Int64List(value=[i])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def arguments(
    data: pathlib.Path,
    workdir: pathlib.Path,
    *overrides: str,
    kind: str = "",
    reference: pathlib.Path | None = None,
    steps: int = 30,
) -> list[str]:
    """Flags of `python -m jest_tf.train`.

    Args:
      data, workdir: folders, the first as `write_data` fills it.
      kind: arguments of tiny_config.py, e.g. "reference".
      reference: workdir of the reference, for kinds that need one.
      steps: of the whole run.
      *overrides: further flags.
    """
    arguments = ",".join(filter(None, [kind, f"steps={steps}"]))
    flags = {
        "config": f"{tiny_config.__file__}:{arguments}",
        "workdir": workdir,
        "config.data.train": data / "manifest.json",
        "config.data.vocab": data / "vocab.txt",
        "config.data.data_dir": data / "prepared",
        "config.evals.retrieval.data": data / "manifest.json",
    }
    if reference:
        flags["config.reference.workdir"] = reference
    return [f"--{name}={value}" for name, value in flags.items()] + list(overrides)


def fork_train(
    command: list[str], log: pathlib.Path, plant: Callable[[], None] = lambda: None
) -> int:
    """Starts `python -m jest_tf.train` in a copy of this process; returns its process id.

    `plant` is called first in the new process. See `fork` for what this process must not have done.
    """

    def train() -> None:
        plant()
        sys.argv = ["jest_tf.train", *command]
        runpy.run_module("jest_tf.train", run_name="__main__", alter_sys=True)

    return fork(train, log)


def fork(action: Callable[[], None], log: pathlib.Path) -> int:
    """Runs `action` in a copy of this process, its output appended to `log`; returns its id.

    Saves the import of TensorFlow. It must be imported here and not yet be used: its threads would
    not be copied.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become(action, log)
    return pid


def _become(action: Callable[[], None], log: pathlib.Path) -> NoReturn:
    """This process does the action and ends, as a program; it never returns to the caller."""
    code = 0
    try:
        with open(log, "ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        action()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # Reported by the log and the exit code, as a process would.
        code = 1
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
