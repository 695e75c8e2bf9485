"""Evaluations over examples and FLOPs, read back with TensorBoard's reader."""

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from jest_tf.monitoring.tensorboard import EvaluationCurves


def points(folder, name) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload().Tensors(name)
    return sorted((e.step, float(tensor_util.make_ndarray(e.tensor_proto))) for e in events)


def totals(step: int) -> dict[str, float]:
    return {"examples_scored": 0, "examples_trained": 128 * step, "flops": 2.6e9 * step}


def write(logdir, first, last, resumed_at=0):
    curves = EvaluationCurves(logdir, totals(resumed_at))
    for step in range(first, last + 1, 10):
        curves.write({"eval/zero_shot/top1": np.float32(step) / 64}, totals(step))
    curves.close()


def test_each_axis_has_its_own_points_and_resuming_doubles_none(tmp_path):
    write(tmp_path, 10, 40)
    write(tmp_path, 30, 50, resumed_at=20)
    values = [step / 64 for step in (10, 20, 30, 40, 50)]
    by_examples = points(
        tmp_path / "by_examples_trained", "05 eval by examples trained/zero_shot/top1"
    )
    assert by_examples == list(zip([1280, 2560, 3840, 5120, 6400], values, strict=True))
    by_gflop = points(tmp_path / "by_gflop", "06 eval by GFLOP/zero_shot/top1")
    assert by_gflop == list(zip([26, 52, 78, 104, 130], values, strict=True))
