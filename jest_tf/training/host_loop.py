"""Several train steps in one call from the host: one compiled program per step plan."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from jest_tf.training.jest_model import JestModel, StepOutput
from jest_tf.training.resolution import StepPlan
from jest_tf.training.strategy import Runtime

# Metrics that are kept of every step and not of the last alone: why a step was refused.
EACH_STEP = ("accepted", "train/loss", "train/gradient_norm", "selection/n_candidates")


class HostLoopResult(NamedTuple):
    """What n steps did.

    metrics: name -> float of the last step. picks: int64 [n, b]. of_each: name -> float32 [n], for
    the names in EACH_STEP. wait_seconds: time spent waiting for input. last, last_batch: output and
    super-batch of the last step, per replica. compiled: a program was traced and compiled, so that
    the time taken says nothing about the steps.
    """

    metrics: dict[str, float]
    picks: np.ndarray
    of_each: dict[str, np.ndarray]
    wait_seconds: float
    last: StepOutput
    last_batch: dict[str, tf.Tensor]
    compiled: bool


class HostLoop:
    """Runs train steps under the strategy; `run(plan, n)` is one call from the host.

    Args:
      model: what to train, built, with its optimizer.
      runtime: the strategy and what may be compiled.
      batches: iterator of the strategy's per-replica super-batches.
    """

    def __init__(self, model: JestModel, runtime: Runtime, batches: Iterator):
        self._model = model
        self._runtime = runtime
        self._batches = batches
        self._sub_batch = model.spec.sub_batch
        self._programs = {}
        self._diagnose = None

    def run(self, plan: StepPlan, n_steps: int) -> HostLoopResult:
        """`n_steps` steps at one plan. Compiles at the first calls for a plan and never again."""
        if n_steps > 1 and not self._runtime.loops_in_graph:
            return _join([self.run(plan, 1) for _ in range(n_steps)])
        key = (plan, n_steps > 1)
        is_new = key not in self._programs
        if is_new:
            self._programs[key] = self._program(plan, in_loop=n_steps > 1)
        output, batch, picks, of_each, wait = self._programs[key](tf.constant(n_steps))
        return HostLoopResult(
            metrics={name: float(self._first(value)) for name, value in output.metrics.items()},
            picks=picks.numpy(),
            of_each=dict(zip(EACH_STEP, of_each.numpy().T, strict=True)),
            wait_seconds=float(wait),
            last=output,
            last_batch=batch,
            compiled=is_new,
        )

    def diagnose(self, last: StepOutput) -> dict[str, np.ndarray]:
        """What other policies would have got from the last step's scores."""
        if last.scored.learner is None and last.scored.reference is None:
            return {}
        if self._diagnose is None:
            self._diagnose = tf.function(
                lambda scored, selection: self._runtime.strategy.run(
                    self._model.diagnose, args=(scored, selection)
                )
            )
        values = self._diagnose(last.scored, last.selection)
        return {name: self._first(value).numpy() for name, value in values.items()}

    def first_replica(self, values):
        """The nest of per-replica tensors as the first replica has it; None stays None."""
        return tf.nest.map_structure(lambda v: None if v is None else self._first(v), values)

    def _program(self, plan: StepPlan, in_loop: bool):
        step = self._runtime.compiled(functools.partial(self._model.step, plan=plan))

        def one_step():
            before = self._clock()
            with tf.control_dependencies([before]):
                batch = next(self._batches)
            with tf.control_dependencies(self._local_tensors(batch)):
                wait = self._clock() - before
            output = self._runtime.strategy.run(step, args=(batch,))
            kept = [self._first(output.metrics[name]) for name in EACH_STEP]
            kept = tf.stack([tf.cast(value, tf.float32) for value in kept])
            return output, batch, self._first(output.picked_ids), kept, wait

        def single(n_steps):
            del n_steps
            output, batch, picks, kept, wait = one_step()
            return output, batch, picks[None], kept[None], wait

        def many(n_steps):
            all_picks = tf.TensorArray(tf.int64, n_steps, element_shape=[self._sub_batch])
            all_kept = tf.TensorArray(tf.float32, n_steps, element_shape=[len(EACH_STEP)])
            waited = tf.zeros([], tf.float64)
            for i in tf.range(n_steps - 1):
                _, _, picks, kept, wait = one_step()
                all_picks = all_picks.write(i, picks)
                all_kept = all_kept.write(i, kept)
                waited += wait
            output, batch, picks, kept, wait = one_step()
            all_picks = all_picks.write(n_steps - 1, picks)
            all_kept = all_kept.write(n_steps - 1, kept)
            return output, batch, all_picks.stack(), all_kept.stack(), waited + wait

        return tf.function(many if in_loop else single)

    def _clock(self) -> tf.Tensor:
        # TensorFlow refuses its clock where it must be deterministic; the wait is then told as 0.
        return tf.zeros([], tf.float64) if self._runtime.deterministic else tf.timestamp()

    def _local_tensors(self, per_replica) -> list[tf.Tensor]:
        results = self._runtime.strategy.experimental_local_results
        return tf.nest.flatten([results(value) for value in per_replica.values()])

    def _first(self, per_replica):
        return self._runtime.strategy.experimental_local_results(per_replica)[0]


def _join(results: list[HostLoopResult]) -> HostLoopResult:
    return results[-1]._replace(
        picks=np.concatenate([r.picks for r in results]),
        of_each={k: np.concatenate([r.of_each[k] for r in results]) for k in EACH_STEP},
        wait_seconds=sum(r.wait_seconds for r in results),
        compiled=any(r.compiled for r in results),
    )
