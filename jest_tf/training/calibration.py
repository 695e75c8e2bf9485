"""A reference's scale and bias, fitted to the run's loss and batch on a clean sample.

Learnability subtracts two models' losses, which means little for t = 117 of batches of 32,768
beside a learner's t = 10. The loss is convex in (t, b): Newton's method finds the optimum.
"""

import json
import math
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from jest_tf.config import needs_reference
from jest_tf.data.pipeline import in_order
from jest_tf.data.sources import open_source
from jest_tf.errors import UserError
from jest_tf.files import parse_json, write_atomically
from jest_tf.serving.encoders import towers
from jest_tf.training.run.restore import REFERENCE_RECORD, LoadedRun, load_workdir

FILE = "calibration.json"  # its name in a workdir
MIN_PAIRS = 32  # of fewer, scale and bias are those of single pairs, and often at BOUNDS
MAX_PAIRS, GROUP = 8192, 1024  # of the sample; rows that are each other's negatives in the fit
BOUNDS = [(0.01, 1000.0), (-100.0, 100.0)]  # of scale and bias: where all pairs are told apart


class Calibration(NamedTuple):
    """Scale and bias before and after, the mean loss of each, and on how many pairs."""

    scale: float
    bias: float
    scale_before: float
    bias_before: float
    loss: float
    loss_before: float
    n_pairs: int

    def __str__(self) -> str:
        return (
            f"reference calibrated on {self.n_pairs:,} pairs: scale {self.scale_before:.1f} -> "
            f"{self.scale:.1f}, bias {self.bias_before:.2f} -> {self.bias:.2f}, loss "
            f"{self.loss_before:.3f} -> {self.loss:.3f}"
        )


def of_run(config: ConfigDict, workdir: pathlib.Path, again: bool = False) -> Calibration | None:
    """The reference fitted to `reference.calibrate`, once for a run; None without.

    `again`: also where a start that failed left its own. UserError: too few usable pairs.
    """
    if not (config.reference.calibrate and needs_reference(config)):
        return None
    path = workdir / FILE
    if path.exists() and not again:
        return Calibration(**parse_json(path.read_text()))
    record = workdir / REFERENCE_RECORD
    step = parse_json(record.read_text())["step"] if record.exists() else None
    fitted = calibrate(config, load_workdir(config.reference.workdir, step))
    write_atomically(path, json.dumps(fitted._asdict()).encode())
    return fitted


def calibrate(config: ConfigDict, run: LoadedRun) -> Calibration:
    """The reference `run` fitted to the pairs of `reference.calibrate`."""
    zimg, ztxt, tokens = _embeddings(run, config)
    captions = None
    if config.same_caption == "ignore":
        captions = np.unique(tokens, axis=0, return_inverse=True)[1].reshape(-1)
    start = float(run.model.scale), float(tf.convert_to_tensor(run.model.bias))
    return fit(zimg, ztxt, *start, config.loss, config.selection.sub_batch, captions)


def _embeddings(run: LoadedRun, config: ConfigDict) -> list[np.ndarray]:
    """(zimg, ztxt, tokens) of up to MAX_PAIRS pairs of the sample."""
    manifest = open_source(config.reference.calibrate, config.data.data_dir)
    rows: list[list[np.ndarray]] = [[], [], []]
    encode_image, encode_text = towers(run.model, run.model.config.image_size)
    how = {"image_size": run.config.data.image_size, "pixels": run.model.pixels}
    left = manifest.n_records  # the last batch begins anew
    for batch in in_order(manifest, run.tokenizer, 64, **how):
        valid, tokens = batch["valid"].numpy()[:left], batch["tokens"]
        values = encode_image(batch["image"]), encode_text(tokens), tokens.numpy()
        for column, value in zip(rows, values, strict=True):
            column.append(value[: len(valid)][valid])
        left -= len(valid)
        if sum(map(len, rows[0])) >= MAX_PAIRS:
            break
    columns = [np.concatenate(column)[:MAX_PAIRS] for column in rows]
    require_pairs(config, len(columns[0]))
    return columns


def require_pairs(config: ConfigDict, n: int) -> None:
    """UserError: the fit would follow single pairs."""
    if n < MIN_PAIRS:
        raise UserError(
            f"reference.calibrate = {config.reference.calibrate!r} holds {n} pairs that can be "
            f"used; expected {MIN_PAIRS} or more, better a thousand. Name more clean pairs, or "
            "leave it out."
        )


def fit(
    zimg: np.ndarray,
    ztxt: np.ndarray,
    scale: float,
    bias: float,
    kind: str,
    batch: int,
    captions: np.ndarray | None = None,
) -> Calibration:
    """The scale and bias with the lowest mean loss of `kind` over batches of `batch` pairs.

    zimg, ztxt: unit-norm [n, d]; captions: [n] numbers, equal ones are no negatives. A softmax
    keeps its bias. Where n < batch, each negative counts as often as the batch would have it.
    """
    order = np.random.default_rng(0).permutation(len(zimg))
    groups = np.array_split(order, math.ceil(len(zimg) / min(GROUP, batch)))
    groups = [group for group in groups if len(group) > 1]
    parts = []
    for group in groups:
        similarity = zimg[group].astype(np.float64) @ ztxt[group].T.astype(np.float64)
        negative = ~np.eye(len(group), dtype=bool)
        if captions is not None:
            negative = captions[group][:, None] != captions[group][None, :]
        parts.append((similarity, negative * (batch - 1) / (len(group) - 1)))
    loss = {"sigmoid": _sigmoid, "softmax": _softmax}[kind]
    n_pairs = sum(map(len, groups))

    def mean(at: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        sums = [loss(*part, *at) for part in parts]
        return tuple(sum(column) / n_pairs for column in zip(*sums, strict=True))

    start = np.array([scale, bias])
    found = _lowest(mean, start)
    losses = float(mean(found)[0]), float(mean(start)[0])
    return Calibration(float(found[0]), float(found[1]), scale, bias, *losses, n_pairs)


def _lowest(mean: Callable, at: np.ndarray) -> np.ndarray:
    """Where a convex function is lowest within BOUNDS: Newton's method, damped where it is flat."""
    low, high = np.transpose(BOUNDS)
    at, damping = np.clip(at, low, high), 1e-3
    value, slope, curvature = mean(at)
    for _ in range(300):
        step = np.linalg.solve(curvature + damping * np.eye(2), slope)
        trial = np.clip(at - step, low, high)
        found = mean(trial)
        if found[0] >= value:
            if damping > 1e9:
                break
            damping *= 10
            continue
        settled = damping < 1 and np.abs(trial - at).max() < 1e-7
        at, damping = trial, max(damping / 10, 1e-12)
        value, slope, curvature = found
        if settled:
            break
    return at


def _sigmoid(similarity, weight, scale, bias) -> tuple[float, np.ndarray, np.ndarray]:
    """The summed loss of a group, its derivative by (scale, bias), and its second derivative."""
    own = np.eye(len(weight))
    z = (1 - 2 * own) * (scale * similarity + bias)
    loss = np.logaddexp(0, z)
    p, weight = np.exp(z - loss), weight + own
    value = (weight * loss).sum()
    d, dd = (1 - 2 * own) * weight * p, weight * p * (1 - p)
    first = np.array([(d * similarity).sum(), d.sum()])
    mixed = (dd * similarity).sum()
    return value, first, np.array([[(dd * similarity**2).sum(), mixed], [mixed, dd.sum()]])


def _softmax(similarity, weight, scale, bias) -> tuple[float, np.ndarray, np.ndarray]:
    """As `_sigmoid`; the bias drops out."""
    del bias
    own = np.trace(similarity)
    value, slope, curvature = -scale * own, -own, 0.0
    counted = weight + np.eye(len(weight))
    for s, w in ((similarity, counted), (similarity.T, counted.T)):
        peak = (scale * s).max(1, keepdims=True)
        p = w * np.exp(scale * s - peak)
        total = p.sum(1, keepdims=True)
        p /= total
        mean = (p * s).sum(1)
        value += 0.5 * (np.log(total) + peak).sum()
        slope += 0.5 * mean.sum()
        curvature += 0.5 * ((p * s**2).sum() - (mean**2).sum())
    return value, np.array([slope, 0.0]), np.array([[curvature, 0.0], [0.0, 0.0]])
