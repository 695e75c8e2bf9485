"""What a run learned about each record: how often it was loaded and selected, and its losses.

    ledger/step-00000100.npz    one array a column of COLUMNS, [n_tracked]; n_records, stride, since

Row i is record `i * stride` in manifest order. Memory is bounded: a set of more than `max_records`
records has a ledger of every stride-th one. `since`: the step from which it counts, 0 unless a file
was lost. The file of a step holds what the run knew when the checkpoint of that step was saved.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import logging

from jest_tf.errors import UserError
from jest_tf.files import replacing, step_file, steps_with_file, writing
from jest_tf.monitoring.samples import reading

# Sums run in float32, in the order of the steps: the same after a resume, bit for bit.
COLUMNS = {
    "loaded": np.uint32,
    "selected": np.uint32,
    "scored": np.uint32,
    "passed_over": np.uint32,
    "learnability_sum": np.float32,
    "learnability_last": np.float32,
    "learner_loss": np.float32,
    "learner_rank": np.float32,
    "reference_loss_sum": np.float32,
    "reference_rank_sum": np.float32,
}


@dataclasses.dataclass
class Ledger:
    """The columns of the tracked records; see the module's docstring."""

    n_records: int
    stride: int = 1
    since: int = 0
    columns: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        n_tracked = -(-self.n_records // self.stride)
        self.columns = self.columns or {k: np.zeros(n_tracked, t) for k, t in COLUMNS.items()}

    def add(self, code: np.ndarray, losses: np.ndarray) -> None:
        """One accepted step: code int64 [B + passed over], losses float32 [B, 4]: `Observed`."""
        c = self.columns
        code, passed = code[: len(losses)], code[len(losses) :] >> 1
        order = np.argsort(code, kind="stable")  # memory is then walked once, upwards
        code, losses = code[order], losses[order]
        passed = passed[passed % self.stride == 0] // self.stride
        np.add.at(c["passed_over"], passed, 1)
        asked = np.isfinite(losses).any(0)
        is_scored = np.isfinite(losses[:, asked]).all(1) & asked.any()
        record, selected = code >> 1, code & 1 == 1
        tracked = (record >= 0) & (record % self.stride == 0)
        row = record // self.stride
        np.add.at(c["loaded"], row[tracked], 1)
        np.add.at(c["selected"], row[tracked & selected], 1)
        row = row[tracked & is_scored]
        learner, reference, learner_rank, reference_rank = losses[tracked & is_scored].T
        np.add.at(c["scored"], row, 1)
        np.add.at(c["learnability_sum"], row, learner - reference)
        np.add.at(c["reference_loss_sum"], row, reference)
        np.add.at(c["reference_rank_sum"], row, reference_rank)
        c["learnability_last"][row] = learner - reference
        c["learner_loss"][row] = learner
        c["learner_rank"][row] = learner_rank

    def table(self) -> dict[str, np.ndarray]:
        """Columns for people, [n_tracked], NaN where a record was never scored."""
        c, n = self.columns, self.columns["scored"]
        never = n == 0

        def where_scored(values: np.ndarray) -> np.ndarray:
            return np.where(never, np.nan, values).astype(np.float32)

        n = np.maximum(n, 1)
        return {
            "times_loaded": c["loaded"],
            "times_selected": c["selected"],
            "times_passed_over": c["passed_over"],
            "mean_learnability": where_scored(c["learnability_sum"] / n),
            "last_learnability": where_scored(c["learnability_last"]),
            "learner_loss": where_scored(c["learner_loss"]),
            "learner_rank": where_scored(c["learner_rank"]),
            "reference_loss": where_scored(c["reference_loss_sum"] / n),
            "reference_rank": where_scored(c["reference_rank_sum"] / n),
        }


class LedgerFiles:
    """The ledger of a run, in memory, and its files: one for each of the `keep` kept checkpoints.

    n_records: of the training data; max_records: of those that are tracked, at most. start_step:
    finished steps of the restored checkpoint, 0 for a new run.
    """

    def __init__(self, folder: Path, n_records: int, max_records: int, keep: int, start_step: int):
        self._folder, self._keep = folder, keep
        stride = max(1, -(-n_records // max_records))
        for step in steps_with_file(folder):
            if step > start_step or not start_step:
                step_file(folder, step).unlink()
        if start_step and step_file(folder, start_step).exists():
            self.ledger = read_ledger(folder, start_step)
            return
        if start_step:
            logging.warning("No ledger of step %d: counts begin there.", start_step)
        self.ledger = Ledger(n_records, stride, since=start_step)

    def saving(self, step: int) -> Callable[[], None]:
        """What writes the ledger as it is now: for a thread, before it saves the checkpoint."""
        columns = {name: column.copy() for name, column in self.ledger.columns.items()}
        return functools.partial(self._save, step, columns)

    def _save(self, step: int, columns: dict[str, np.ndarray]) -> None:
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            about = {name: getattr(self.ledger, name) for name in ("n_records", "stride", "since")}
            with replacing(step_file(self._folder, step)) as aside, open(aside, "wb") as file:
                np.savez(file, **about, **columns)
            for old in steps_with_file(self._folder)[: -self._keep]:
                step_file(self._folder, old).unlink()


def read_ledger(folder: str | os.PathLike, step: int | None = None) -> Ledger:
    """The ledger of a step, by default the newest; UserError: there is none, or it is damaged."""
    steps = steps_with_file(folder)
    if not steps:
        raise UserError(
            f"{folder} holds no ledger: the run has saved no checkpoint yet, or it was made with "
            "log.ledger_records=0 or an earlier version. Score its data instead: --data and "
            "--reference."
        )
    with reading(step_file(folder, steps[-1] if step is None else step)) as arrays:
        about = [int(arrays[name]) for name in ("n_records", "stride", "since")]
        return Ledger(*about, {k: arrays[k].astype(t) for k, t in COLUMNS.items()})
