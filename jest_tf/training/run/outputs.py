"""What a run writes besides checkpoints: scalars, picks, refused steps, the progress line.

One name per number everywhere: TensorBoard's tag is the key in metrics.jsonl, its group numbered.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jest_tf.config import flat
from jest_tf.evaluation.evaluators import headlines
from jest_tf.monitoring.ledger import LedgerFiles
from jest_tf.monitoring.metrics_log import MetricsLog
from jest_tf.monitoring.picks_log import PicksLog
from jest_tf.monitoring.samples import GROUPS, Samples, cut_samples, group_sheet, write_samples
from jest_tf.monitoring.tensorboard import EvaluationCurves, TensorBoard
from jest_tf.progress import Progress
from jest_tf.results import cut_results, result_path
from jest_tf.training.run.workdir import Workdir


class Files:
    """The outputs in a workdir. Opening cuts what lies beyond `start_step`, so nothing is doubled.

    totals: examples_scored, examples_trained and flops until then. n_records: of the data.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Workdir,
        start_step: int,
        totals: Mapping[str, float],
        n_records: int,
    ):
        self._metrics = MetricsLog(workdir.metrics, start_step)
        self._refused = MetricsLog(workdir.path / "refused_steps.jsonl", start_step)
        self._tensorboard = TensorBoard(workdir.tensorboard, start_step)
        self._curves = EvaluationCurves(workdir.tensorboard, totals)
        self._progress = Progress(config.total_steps)
        self._workdir = workdir
        self._headlines = list(headlines(config.evals))
        self._samples = workdir.samples
        cut_samples(self._samples, start_step)
        cut_results(workdir.evaluations, start_step)
        self._logs, self._picks = [self._metrics, self._refused], None
        if every := config.log.picks_every_steps:
            self._picks = PicksLog(workdir.picks, config.selection.sub_batch, every, start_step)
            self._logs.append(self._picks)
        self._ledger = None
        if most := config.log.ledger_records:
            keep = config.checkpoint.keep
            self._ledger = LedgerFiles(workdir.ledger, n_records, most, keep, start_step)
        if start_step == 0:
            self._tensorboard.config(config.to_dict())
            self._tensorboard.cockpit()
            self._tensorboard.hparams(flat(config), ["train/loss", *self._headlines])

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """One line in metrics.jsonl and one point per value in TensorBoard."""
        self._tensorboard.scalars(step, values)
        self._metrics.write(step, values)

    def evaluation(self, step: int, values: Mapping, totals: Mapping[str, float]) -> None:
        """`eval/NAME/METRIC` → number over steps, and over what was spent (`totals`) until here;
        `forgetting/NAME/METRIC` → its difference to step 0, over steps.

        Once: what metrics.jsonl has was written before a kill at this very step.
        """
        if not self._metrics.has(step, values):
            measured = {name: v for name, v in values.items() if name.startswith("eval/")}
            self._curves.write(measured, totals)
            self.scalars(step, values)

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        self._tensorboard.histogram(step, name, values)

    def samples(self, step: int, samples: Samples) -> None:
        """Examples to look at: pictures in TensorBoard, arrays for the report."""
        write_samples(self._samples, step, samples)
        for group in GROUPS:
            if group in samples.group:
                picture = group_sheet(samples, group)
                self._tensorboard.picture(step, f"examples/{group}", picture)

    def picks(self, step: int, ids: np.ndarray) -> None:
        """The ids int64 [b] that a step trained on, if this step's are wanted."""
        if self._picks is not None and self._picks.wants(step):
            self._picks.write(step, ids)

    def observed(self, steps: Any, accepted: np.ndarray) -> None:
        """What steps saw of each candidate, see `jest_tf.training.jest_model.Observed`; [n, B]."""
        if self._ledger is not None:
            for i in np.flatnonzero(accepted):
                self._ledger.ledger.add(steps.code[i], steps.losses[i])

    def refused(self, step: int, reason: str, ids: np.ndarray) -> None:
        """A step that changed nothing, why, and the ids [b] of its batch."""
        self._refused.write(step, {"reason": reason, "ids": " ".join(map(str, ids.tolist()))})
        self.note(f"step {step} refused: {reason}; ids in refused_steps.jsonl")

    def progress(self, step: int, totals: Mapping[str, float], values: Mapping) -> None:
        """`totals`: examples_scored, examples_trained and flops so far; `values` to show."""
        self._progress.update(step, **totals, values=values)

    def note(self, text: str) -> None:
        self._progress.note(text)

    def finished(self, step: int, scores: Mapping[str, Mapping[str, float]]) -> None:
        """The last words of a run: its scores (evaluation -> metrics), and how to go on."""
        lines = [f"All {step:,} steps are done; the run lies in {self._workdir.path}."]
        for name, metrics in scores.items():
            first = {m: v for m, v in metrics.items() if f"eval/{name}/{m}" in self._headlines}
            shown = ", ".join(f"{metric} {value:.1%}" for metric, value in first.items())
            lines.append(
                f"  {name}: {shown}  ({result_path(self._workdir.evaluations, name, step)})"
            )
        lines.append(
            "To train longer, rerun the same command with --config.total_steps=N: the learning "
            "rate then follows the schedule of N steps."
        )
        self.note("\n".join(lines))

    def sync(self, step: int) -> Callable[[], None]:
        """Brings everything to the disk that a checkpoint must not precede.

        Returns what is left to do, the file of the ledger, for the thread that saves.
        """
        for log in self._logs:
            log.sync()
        self._tensorboard.flush()
        self._curves.flush()
        return self._ledger.saving(step) if self._ledger is not None else lambda: None

    def close(self) -> None:
        for output in (self._progress, *self._logs, self._tensorboard, self._curves):
            output.close()


class Silent:
    """The outputs of the worker processes that are not the chief: the same calls, no effect."""

    def __getattr__(self, name: str):
        getattr(Files, name)  # a misspelt call is an error here too
        return lambda *_args, **_kwargs: None

    def sync(self, step: int) -> Callable[[], None]:
        return lambda: None
