"""Evaluations in TensorBoard over what was spent on them: examples trained on, and FLOPs.

TensorBoard has one axis, the step. So each of these axes is a sub-folder, hence a run of its own
there, with tags in a group that names the axis.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from jest_tf.monitoring.tensorboard import TensorBoard

# Total of the cost ledger → folder, axis as the tags name it, unit of the axis.
AXES = {
    "examples_trained": ("by_examples_trained", "eval by examples trained", 1),
    "flops": ("by_gflop", "eval by GFLOP", 10**9),
}


class EvaluationCurves:
    """Writes each evaluation once per axis of AXES, below TensorBoard's folder of the run.

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
        """Bring everything to the disk."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def _on_axis(total: str, totals: Mapping[str, float]) -> int:
    return round(totals[total] / AXES[total][2])
