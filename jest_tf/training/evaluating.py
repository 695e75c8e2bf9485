"""The evaluations of a run, and their difference to step 0 where it starts from trained weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jest_tf.data.tokenizer import Tokenizer
from jest_tf.evaluation.evaluators import is_result_of, run_evaluation
from jest_tf.evaluation.kinds import KINDS
from jest_tf.results import read_result, write_result
from jest_tf.runtime.strategy import Runtime
from jest_tf.serving.encoders import ModelEncoder
from jest_tf.training.cost import CostLedger
from jest_tf.training.jest_model import JestModel
from jest_tf.training.run.outputs import Files, Silent
from jest_tf.training.run.workdir import Workdir

CHANGES = "change_since_step_0"  # field of a result: metric → difference ("forgetting")


class Evaluations:
    """Runs what is due, on the averaged weights if there are any; with `model.init` also at step 0.

    scores: name → metrics of the newest result. stopped: why the run is to stop, with a score below
    `log.min_score_share`; empty if it is not. All replicas embed: each worker process has one.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Workdir,
        model: JestModel,
        tokenizer: Tokenizer,
        outputs: Files | Silent,
        runtime: Runtime,
    ):
        self._config, self._folder, self._model = config, workdir.evaluations, model
        self._outputs, self._runtime = outputs, runtime
        self._encoder = ModelEncoder(
            model.learner,
            tokenizer,
            config.model.image_size,
            config.data.image_size,
            {"model": config.name, "checkpoint": str(workdir.checkpoints)},
            runtime.by_rows,
        )
        self.scores, self.stopped = {}, ""

    def run_due(self, step: int, ledger: CostLedger, totals: Mapping[str, float]) -> None:
        """Runs the evaluations of this step; one whose result is there is only told again."""
        passes = {}  # data sets that evaluations of this step share
        for name in self.due(step):
            spec = self._config.evals[name].to_dict()
            result = read_result(self._folder, name, step)
            if result and not is_result_of(result, name, spec, self._config.data.data_dir):
                result = None
            # A worker may not see yet what another has written: then all measure it again.
            if not all(self._runtime.peers.of_all(int(result is not None))):
                self._encoder.description.update(step=step, cost=dataclasses.asdict(ledger))
                result = self._measure(name, step, spec, passes)
                if self._runtime.is_chief:
                    write_result(self._folder, result)
            self.scores[name] = result["metrics"]
            values = {f"eval/{name}/{k}": v for k, v in result["metrics"].items()}
            changes = result.get(CHANGES, {})
            values |= {f"forgetting/{name}/{k}": v for k, v in changes.items()}
            self._outputs.evaluation(step, values, totals)
            self._outputs.note(described(name, step, result))
            start, metric = self._start(name, step), headline(result)
            share = self._config.log.min_score_share
            if not start or metric not in start["metrics"]:
                continue
            before, now = start["metrics"][metric], result["metrics"][metric]
            if now < share * before:
                self.stopped = (
                    f"{metric} of {name} is {now:.4f}, below {share:g} times the {before:.4f} of "
                    "step 0 (log.min_score_share). Lower optimizer.learning_rate or train fewer "
                    "parts, in another workdir; --config.log.min_score_share=0 goes on with this "
                    "run."
                )

    def due(self, step: int) -> list[str]:
        evals = self._config.evals
        if step == 0:
            return list(evals) if self._config.model.init else []
        if step >= self._config.total_steps:
            return list(evals)
        return [name for name, e in evals.items() if e.every_steps and step % e.every_steps == 0]

    def _measure(self, name: str, step: int, spec: dict, passes: dict) -> dict[str, Any]:
        with self._model.optimizer.averaged(self._model.learner.trainable_variables):
            data_dir = self._config.data.data_dir
            result = run_evaluation(name, spec, self._encoder, data_dir, passes)
        if start := self._start(name, step):
            metrics, before = result["metrics"], start["metrics"]
            result[CHANGES] = {k: metrics[k] - before[k] for k in metrics if k in before}
        return result

    def _start(self, name: str, step: int) -> dict[str, Any] | None:
        """The result of step 0, for a later step of a run that starts from trained weights."""
        if not self._config.model.init or not step:
            return None
        return read_result(self._folder, name, 0)


def headline(result: Mapping[str, Any]) -> str:
    """The metric by which runs are compared first."""
    metrics = result["metrics"]
    return next((m for m in KINDS[result["kind"]].headlines if m in metrics), next(iter(metrics)))


def described(name: str, step: int, result: Mapping[str, Any]) -> str:
    """One line: the first metric, and its difference to step 0."""
    metric = headline(result)
    line = f"step {step:,}: {name} {metric} {result['metrics'][metric]:.4f}"
    change = result.get(CHANGES, {}).get(metric)
    return line if change is None else f"{line} ({change:+.4f} since step 0)"
