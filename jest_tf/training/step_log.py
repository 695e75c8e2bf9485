"""What a run writes down of its steps, once they are done: picks, costs, refusals, scalars."""

import collections
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from jest_tf.data.manifest import Manifest
from jest_tf.data.records import look_up
from jest_tf.data.retry import BadRecords
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.monitoring.samples import GROUPS, Samples, pick_samples
from jest_tf.selection import Embeddings
from jest_tf.training import cost
from jest_tf.training.host_loop import HostLoop, HostLoopResult, why_refused
from jest_tf.training.inputs import Inputs
from jest_tf.training.jest_model import Scored, StepOutput
from jest_tf.training.resolution import StepPlan
from jest_tf.training.run.outputs import Files, Silent

# Rows that the accuracy looks at: enough for two digits, and quick on any host.
ACCURACY_ROWS = 1024
# Examples are kept of so many steps at the full cadence; then of ever fewer, so that the log of a
# run of a million steps stays small.
KEPT_AT_FULL_CADENCE = 100


class Pending(NamedTuple):
    """Steps that a device may still be computing. step: finished steps after them."""

    step: int
    n_steps: int
    plan: StepPlan
    result: HostLoopResult


class Acceptance:
    """Counts candidates and picks by source (number -> name), from one report to the next."""

    def __init__(self, sources: Sequence[str]):
        self._sources = sources
        self._seen: collections.Counter = collections.Counter()
        self._picked: collections.Counter = collections.Counter()

    def add(self, ids: np.ndarray, source: np.ndarray, valid: np.ndarray, picks: np.ndarray):
        """One step: `ids` int64, `source` int32, `valid` bool [n] of candidates, `picks` [b].

        Unreadable rows are no candidates. Picks of other hosts' rows are passed over.
        """
        picked = np.isin(ids, picks) & valid
        self._seen.update(source[valid].tolist())
        self._picked.update(source[picked].tolist())

    def take(self) -> dict[str, float]:
        """`acceptance/SOURCE` → picked / candidates since the last call, and starts anew."""
        shares = {
            f"acceptance/{self._sources[source]}": self._picked[source] / n
            for source, n in sorted(self._seen.items())
        }
        self._seen.clear()
        self._picked.clear()
        return shares


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
            of_step = {name: values[i] for name, values in result.of_each.items()}
            self.refused_in_a_row = 0 if of_step["accepted"] else self.refused_in_a_row + 1
            if not of_step["accepted"]:
                reason = why_refused(of_step, self._config.selection.sub_batch)
                self._outputs.refused(first + i, reason, ids)
        self._outputs.observed(result.observed, result.of_each["accepted"])
        self._acceptance.add(*result.candidates(), result.picks[-1])
        self._book(pending)
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
        values |= self._acceptance.take()
        scored = self._host_loop.first_replica(result.last.scored)
        if scored.learner is not None:
            values["train/pool_accuracy"] = pool_accuracy(scored)
        if scored.reference is not None:
            values["train/reference_scale"] = float(scored.reference.scale)
            values["train/reference_bias"] = float(scored.reference.bias)
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


def pool_accuracy(scored: Scored) -> float:
    """Share of candidates whose own text is the learner's nearest, among the first valid ones."""
    rows = np.flatnonzero(scored.valid.numpy())[:ACCURACY_ROWS]
    zimg, ztxt = (z.numpy()[rows].astype(np.float32) for z in scored.learner[:2])
    return float(np.mean(np.argmax(zimg @ ztxt.T, axis=1) == np.arange(len(rows))))


def shows_examples(step: int, every_steps: int) -> bool:
    """Whether the examples of a step are kept: n times the cadence keep O(log n) of them.

    All of the first KEPT_AT_FULL_CADENCE, then half as often each time that steps double.
    """
    n = step // every_steps
    stride = 1
    while n > KEPT_AT_FULL_CADENCE * stride:
        stride *= 2
    return step % (every_steps * stride) == 0


def shown_examples(
    last: StepOutput,
    batch: dict[str, tf.Tensor],
    score: np.ndarray,
    tokenizer: Tokenizer,
    manifest: Manifest,
    per_group: int,
) -> Samples:
    """The most telling rows of the super-batch that the first replica held.

    score: float32 [n], S_ii of its rows. Keys and captions come from the records of `manifest`;
    tokens are turned back into text where one cannot be read again. per_group: rows at most.
    """
    n = len(score)
    chosen = np.zeros([n], bool)
    positions = last.selection.positions.numpy()
    chosen[positions[positions < n]] = True
    losses = [_positive_loss(z, n) for z in (last.scored.learner, last.scored.reference)]
    groups = pick_samples(score, *losses, chosen, last.scored.valid.numpy(), per_group)
    rows = np.concatenate([groups[name] for name in GROUPS])
    shown = {name: batch[name].numpy()[rows] for name in ("id", "image", "tokens", "source")}
    captions, keys = tokenizer.to_text(shown["tokens"]), [""] * len(rows)
    drawn = batch["caption_index"].numpy()[rows]
    for row, record in enumerate(look_up(manifest, batch["record"].numpy()[rows])):
        if record.id == shown["id"][row] and drawn[row] < len(record.captions):
            captions[row] = record.captions[drawn[row]].decode("utf-8", "replace")
            keys[row] = record.key.decode("utf-8", "replace")
    return Samples(
        group=np.repeat(list(GROUPS), [len(groups[name]) for name in GROUPS]),
        id=shown["id"],
        image=shown["image"],
        caption=np.array(captions, np.str_),
        source=np.array([s.name for s in manifest.sources], np.str_)[shown["source"]],
        score=score[rows],
        learner_loss=losses[0][rows],
        reference_loss=losses[1][rows],
        key=np.array(keys, np.str_),
    )


def _positive_loss(z: Embeddings | None, n: int) -> np.ndarray:
    """softplus(-z_ii) of each row; NaN where the policy did not ask the model."""
    if z is None:
        return np.full([n], np.nan, np.float32)
    cosine = np.sum(z.zimg.numpy() * z.ztxt.numpy(), axis=1)
    return np.logaddexp(0.0, -(z.scale.numpy() * cosine + z.bias.numpy())).astype(np.float32)
