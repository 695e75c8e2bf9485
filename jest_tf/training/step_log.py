"""What a run writes down of its steps, once they are done: picks, costs, refusals, scalars."""

import time
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jest_tf.data.retry import BadRecords
from jest_tf.monitoring.acceptance import Acceptance
from jest_tf.training import cost
from jest_tf.training.host_loop import HostLoop, HostLoopResult, why_refused
from jest_tf.training.inputs import Inputs
from jest_tf.training.resolution import StepPlan
from jest_tf.training.run.outputs import Files, Silent
from jest_tf.training.shown_examples import of_both_models, shown_examples, shows_examples


class Pending(NamedTuple):
    """Steps that a device may still be computing. step: finished steps after them."""

    step: int
    n_steps: int
    plan: StepPlan
    result: HostLoopResult


class StepLog:
    """Reads what steps did, waiting for the device, and keeps account of it.

    part_seconds: plan -> of the parts of a step. Time counts from `start_clock` or the last write.
    """

    def __init__(
        self,
        config: ConfigDict,
        inputs: Inputs,
        host_loop: HostLoop,
        outputs: Files | Silent,
        costs: cost.CostModel,
        ledger: cost.CostLedger,
        bad_records: BadRecords,
    ):
        self._config, self._inputs, self._host_loop = config, inputs, host_loop
        self._outputs, self._costs, self._ledger = outputs, costs, ledger
        self._bad_records = bad_records
        self._acceptance = Acceptance([source.name for source in inputs.manifest.sources])
        self.part_seconds: dict[StepPlan, dict[str, float]] = {}
        self.refused_in_a_row = 0

    @property
    def is_stuck(self) -> bool:
        """Whether too many steps in a row were refused."""
        return self.refused_in_a_row > self._config.log.max_refused_steps

    def could_end(self, n_steps: int) -> bool:
        """Whether the run may have to end with `n_steps` more, not written yet."""
        is_stuck = self.refused_in_a_row + n_steps > self._config.log.max_refused_steps
        return is_stuck or self._bad_records.may_stop(n_steps * self._config.selection.super_batch)

    def start_clock(self) -> None:
        """The time before belongs to no step."""
        self._booked_at = time.monotonic()

    def write(self, pending: Pending) -> None:
        """Waits for what steps did, and writes it down; one line of scalars where one is due."""
        result, first = pending.result, pending.step - pending.n_steps + 1
        for i, ids in enumerate(result.picks):
            self._outputs.picks(first + i, ids)
        self._outputs.observed(result.observed, result.of_each["accepted"])
        self._acceptance.add(*result.candidates(), result.picks[-1])
        self._book(pending)
        self._note_refusals(result, first)
        self._note_bad_records(result)
        shown = {"loss": result.metrics["train/loss"]}
        if choosing := self._ledger.share_of_seconds(
            cost.SCORE_LEARNER, cost.SCORE_REFERENCE, cost.SELECT
        ):
            shown["time choosing"] = choosing
        self._outputs.progress(pending.step, self._ledger.totals, shown)
        every = self._config.log.every_steps
        if pending.step % every == 0 or pending.step >= self._config.total_steps:
            self._log(pending.step, result)

    def _book(self, pending: Pending) -> None:
        wait, now = pending.result.wait_seconds, time.monotonic()
        took, self._booked_at = now - self._booked_at - wait, now
        seconds = {"input": wait}
        if pending.result.compiled:
            seconds["compile"] = took
        else:
            seconds |= cost.split_seconds(took, pending.n_steps, self.part_seconds[pending.plan])
        self._ledger.add(self._costs.step(pending.plan), pending.n_steps, seconds)

    def _note_refusals(self, result: HostLoopResult, first: int) -> None:
        """Counts refused steps in a row, and writes down what was in each."""
        for i, ids in enumerate(result.picks):
            of_step = {name: values[i] for name, values in result.of_each.items()}
            self.refused_in_a_row = 0 if of_step["accepted"] else self.refused_in_a_row + 1
            if not of_step["accepted"]:
                reason = why_refused(of_step, self._config.selection.sub_batch)
                self._outputs.refused(first + i, reason, ids)

    def _note_bad_records(self, result: HostLoopResult) -> None:
        """Counts what could not be used, by the steps' own counts over all replicas."""
        valid, size = result.of_each["input/n_valid"], self._config.selection.super_batch
        for call in range(-result.n_calls, 0):
            if valid[call] < size:
                ids, source, is_valid = result.candidates(call)
                self._bad_records.list(ids, is_valid, source)
        seen = size * len(valid)
        self._bad_records.count(seen, seen - int(valid.sum(dtype=np.int64)))

    def _log(self, step: int, result: HostLoopResult) -> None:
        """One line of scalars, and what there is to look at."""
        values = {k: v for k, v in result.metrics.items() if k != "accepted"}
        diagnosis = self._host_loop.diagnose(result.last)
        scores = diagnosis.pop("s_ii", None)
        values |= {f"selection/{name}": float(value) for name, value in diagnosis.items()}
        scored = self._host_loop.first_replica(result.last.scored)
        values |= self._acceptance.take() | of_both_models(scored)
        values["input/wait_share"] = self._ledger.share_of_seconds("input")
        values["input/bad_records"] = self._bad_records.bad
        self._outputs.scalars(step, values | self._ledger.scalars())
        if scores is not None:
            self._show(step, result, scores)

    def _show(self, step: int, result: HostLoopResult, scores: np.ndarray) -> None:
        """Distributions of the scores, and examples of what was chosen and rejected."""
        last, batch = self._host_loop.first_replica((result.last, result.last_batch))
        positions = last.selection.positions.numpy()
        self._outputs.histogram(step, "score/pool", scores[last.scored.valid.numpy()])
        self._outputs.histogram(step, "score/chosen", scores[positions[positions < len(scores)]])
        if "image" in batch and shows_examples(step, self._config.log.samples_every_steps):
            n, inputs = self._config.log.samples_per_group, self._inputs
            examples = shown_examples(last, batch, scores, inputs.tokenizer, inputs.manifest, n)
            self._outputs.samples(step, examples)
