"""A thin TensorBoard writer: names are `group/name`, the horizontal axis is the step.

TensorBoard sorts groups by name, so each known group gets its number in front. One process writes
to a folder at a time.
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
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.hparams import api as hparams_api
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

# Beginnings of names in the order of the story: how it learns, what it chose, what that gave; the
# first that fits counts.
GROUPS = (
    ("train/loss", "train/pool_accuracy"),
    ("selection/",),
    ("acceptance/",),
    ("eval/",),
    ("eval by examples trained/",),
    ("eval by GFLOP/",),
    ("score/",),
    ("examples/",),
    ("cost/",),
    ("train/",),
    ("input/",),
    ("forgetting/",),
)
# The tab Custom Scalars: title of a chart → regular expressions of the names in it.
COCKPIT = {
    "How it learns": {
        "Loss": ["train/loss"],
        "Accuracy among the candidates": ["train/pool_accuracy"],
        "Evaluations": ["eval/.*(recall@10|top1|shot/accuracy)"],
    },
    "What it chooses": {
        "Joint score: chosen, independent top-k, uniform": ["selection/joint_score.*"],
        "Mean learnability: pool and chosen": ["selection/(pool|chosen)_score"],
        "Overlap of the chosen with independent top-k": ["selection/overlap.*"],
        "Share of each source's candidates that were picked": ["acceptance/.*"],
    },
    "What it costs": {
        "FLOPs by phase": ["cost/flops/.*"],
        "Seconds by phase": ["cost/seconds/.*"],
        "Share of the time spent waiting for input": ["input/wait_share"],
    },
    "The models": {
        "Scale": ["train/(learner|reference)_scale"],
        "Bias": ["train/(learner|reference)_bias"],
        "Gradient norm": ["train/gradient_norm"],
        "Learning rate": ["train/learning_rate"],
    },
}
# Total of the cost ledger → folder, axis as the tags name it, unit of the axis.
AXES = {
    "examples_trained": ("by_examples_trained", "eval by examples trained", 1),
    "flops": ("by_gflop", "eval by GFLOP", 10**9),
}
HISTOGRAM_BUCKETS = 40
# The event file is a TFRecord: uint64 length, its uint32 checksum, the event, its uint32 checksum.
RECORD_HEADER_BYTES, CHECKSUM_BYTES = 12, 4


class TensorBoard:
    """Writes the event files of one run; every call is flushed (10 microseconds).

    start_step: of the restored checkpoint; what was written for later steps is removed.
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
                pb = scalar_pb(tag(name), float(value))
                summary.MergeFromString(pb.SerializeToString())
        # One event for all: an op per scalar would cost 10 ms for 50 of them.
        with self._writer.as_default(step=step):
            tf.summary.experimental.write_raw_pb(summary.SerializeToString())

    def config(self, config: Mapping[str, Any]) -> None:
        """Write the whole config as an indented JSON block under `config`, in the tab Text."""
        body = json.dumps(config, indent=2, ensure_ascii=False, default=str)
        with self._writer.as_default(step=0):
            tf.summary.text("config", "\n".join(f"    {line}" for line in body.splitlines()))

    def cockpit(self) -> None:
        """Write the layout of the tab Custom Scalars: what belongs together in one chart."""
        layout = layout_pb2.Layout()
        for title, charts in COCKPIT.items():
            category = layout.category.add(title=title)
            for name, patterns in charts.items():
                lines = category.chart.add(title=name).multiline
                lines.tag.extend(f"^{tag(pattern)}$" for pattern in patterns)
        with self._writer.as_default(step=0):
            tf.summary.experimental.write_raw_pb(custom_scalar.pb(layout).SerializeToString())

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Write the distribution of the finite values, e.g. scores of the pool or of the chosen."""
        values = np.asarray(values, np.float64).ravel()
        values = values[np.isfinite(values)]
        if values.size:
            with self._writer.as_default(step=step):
                tf.summary.histogram(tag(name), values, buckets=HISTOGRAM_BUCKETS)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Write a picture uint8 [h, w, 3]."""
        with self._writer.as_default(step=step):
            tf.summary.image(tag(name), image[None])

    def hparams(self, config: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Writes the tab HParams: the flat config, selection first, and names of scalars."""
        values = {k: v if isinstance(v, bool | int | float) else str(v) for k, v in config.items()}
        fields = sorted(values, key=lambda name: (not name.startswith("selection."), name))
        with self._writer.as_default(step=0):
            hparams_api.hparams_config(
                hparams=[hparams_api.HParam(name) for name in fields],
                metrics=[hparams_api.Metric(tag(name), display_name=name) for name in metrics],
            )
            hparams_api.hparams(values)

    def flush(self) -> None:
        """Bring everything to the disk; call before saving a checkpoint, which it must precede."""
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class EvaluationCurves:
    """Writes each evaluation over what was spent on it, once per axis of AXES.

    TensorBoard has one axis, the step: each other one is a run of its own, in a sub-folder.
    totals: examples_trained and flops of the restored checkpoint; what lies beyond is cut.
    """

    def __init__(self, logdir: str | os.PathLike, totals: Mapping[str, float]):
        self._writers = {
            total: TensorBoard(Path(logdir) / folder, _on_axis(total, totals))
            for total, (folder, _, _) in AXES.items()
        }

    def write(self, values: Mapping[str, float], totals: Mapping[str, float]) -> None:
        """`values`: `eval/NAME/METRIC` → number, as reached with these totals."""
        for total, (_, group, _) in AXES.items():
            named = {f"{group}/{name.removeprefix('eval/')}": v for name, v in values.items()}
            self._writers[total].scalars(_on_axis(total, totals), named)

    def flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def _on_axis(total: str, totals: Mapping[str, float]) -> int:
    return round(totals[total] / AXES[total][2])


def tag(name: str) -> str:
    """The tag of a name: a known group gets its place in front."""
    numbers = [number for number, group in enumerate(GROUPS, start=1) if name.startswith(group)]
    return f"{numbers[0]:02d} {name}" if numbers else name


def cut_events(logdir: str | os.PathLike, last_step: int) -> None:
    """Cuts each event file before its first event after `last_step`, or before a broken end."""
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
