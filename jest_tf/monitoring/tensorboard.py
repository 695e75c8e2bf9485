"""A thin TensorBoard writer: names are `group/name`, the horizontal axis is the step.

Groups make the first screen: train, selection, acceptance, score, cost, evaluation. For curves over
another axis open a second writer on a sub-folder and give that axis as the step:

    by_examples = TensorBoard(logdir / "by_examples", start_step=examples_trained)

One process writes to a folder at a time: one that follows a run takes a sub-folder of its own.
"""

import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

HISTOGRAM_BUCKETS = 40
# The event file is a TFRecord: uint64 length, its uint32 checksum, the event, its uint32 checksum.
RECORD_HEADER_BYTES, CHECKSUM_BYTES = 12, 4


class TensorBoard:
    """Writes the event files of one run.

    Args:
      logdir: made when missing.
      start_step: finished steps of the restored checkpoint, 0 for a new run; what earlier processes
        wrote for later steps is removed, so that no point is doubled.

    Every call is flushed (10 microseconds), so that a kill loses nothing and a viewer sees it.
    """

    def __init__(self, logdir: str | os.PathLike, start_step: int = 0):
        cut_events(logdir, start_step)
        self._writer = tf.summary.create_file_writer(os.fspath(logdir))

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Write `group/name` → number; values that are no single number are left out."""
        summary = tf.compat.v1.Summary()
        for name, value in values.items():
            value = np.asarray(value)
            if value.ndim == 0 and value.dtype.kind in "biuf":
                summary.MergeFromString(scalar_pb(name, float(value)).SerializeToString())
        # One event for all: an op per scalar would cost 10 ms for 50 of them.
        with self._writer.as_default(step=step):
            tf.summary.experimental.write_raw_pb(summary.SerializeToString())

    def text(self, step: int, name: str, markdown: str) -> None:
        """Write a text, shown as Markdown."""
        with self._writer.as_default(step=step):
            tf.summary.text(name, markdown)

    def config(self, step: int, config: Mapping[str, Any]) -> None:
        """Write the whole config as an indented JSON block under `config`."""
        body = json.dumps(config, indent=2, ensure_ascii=False, default=str)
        self.text(step, "config", "\n".join(f"    {line}" for line in body.splitlines()))

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Write the distribution of the finite values, e.g. scores of the pool or of the chosen."""
        values = np.asarray(values, np.float64).ravel()
        values = values[np.isfinite(values)]
        if values.size:
            with self._writer.as_default(step=step):
                tf.summary.histogram(name, values, buckets=HISTOGRAM_BUCKETS)

    def images(
        self, step: int, name: str, images: np.ndarray, captions: Sequence[str] | None = None
    ) -> None:
        """Write a grid of uint8 [n, h, w, 3] images, and their captions as a numbered text."""
        with self._writer.as_default(step=step):
            tf.summary.image(name, image_grid(images)[None])
            if captions is not None:
                lines = [f"{i + 1}. {_escape(text)}" for i, text in enumerate(captions)]
                tf.summary.text(f"{name}/captions", "\n".join(lines))

    def hparams(self, config: Mapping[str, Any]) -> None:
        """Write the flat hyper-parameters (numbers, strings, bools) for the HPARAMS tab."""
        with self._writer.as_default(step=0):
            hparams_api.hparams(
                {
                    name: v if isinstance(v, (bool, int, float)) else str(v)
                    for name, v in config.items()
                }
            )

    def flush(self) -> None:
        """Bring everything to the disk; call before saving a checkpoint, which it must precede."""
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def image_grid(images: np.ndarray) -> np.ndarray:
    """Lay uint8 [n, h, w, 3] out row by row in a nearly square grid, one pixel of white between."""
    n, h, w, c = images.shape
    n_columns = max(1, int(np.ceil(np.sqrt(n))))
    n_rows = max(1, -(-n // n_columns))
    grid = np.full([n_rows * (h + 1) - 1, n_columns * (w + 1) - 1, c], 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // n_columns * (h + 1), i % n_columns * (w + 1)
        grid[top : top + h, left : left + w] = image
    return grid


def cut_events(logdir: str | os.PathLike, last_step: int) -> None:
    """Cut every event file in `logdir` before its first event after `last_step`, or a broken end.

    Each process writes its own file in step order, so what follows in the file is later too.
    """
    for path in sorted(Path(logdir).glob("events.out.tfevents.*")):
        end = _length_up_to(path, last_step)
        if end < path.stat().st_size:
            logging.info("%s: cut after step %d.", path, last_step)
            os.truncate(path, end)


def _length_up_to(path: Path, last_step: int) -> int:
    end, size = 0, path.stat().st_size
    with open(path, "rb") as file:
        while len(header := file.read(RECORD_HEADER_BYTES)) == RECORD_HEADER_BYTES:
            (n_bytes,) = struct.unpack("<Q", header[:8])
            next_end = end + RECORD_HEADER_BYTES + n_bytes + CHECKSUM_BYTES
            if next_end > size:
                break
            try:
                event = tf.compat.v1.Event.FromString(file.read(n_bytes))
            except DecodeError:
                break
            if event.step > last_step:
                break
            file.seek(next_end)
            end = next_end
    return end


def _escape(text: str) -> str:
    # A caption is data from anywhere: it must show as it is, not as Markdown or HTML.
    return "".join(f"&#{ord(ch)};" if ch in "<>&*_`[]()#!|\\~" else ch for ch in text)
