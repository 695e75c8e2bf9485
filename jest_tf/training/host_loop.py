"""Train steps as compiled programs, called from the host: one program per step plan."""

import copy
import functools
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from jest_tf.runtime.strategy import Runtime
from jest_tf.selection import select
from jest_tf.training.cost import SCORE_LEARNER, SCORE_REFERENCE, SELECT
from jest_tf.training.jest_model import JestModel, Observed, StepOutput
from jest_tf.training.resolution import StepPlan


class _Call(NamedTuple):
    kept: dict[str, tf.Tensor]  # of each of its steps, name -> [n, ...]
    wait: tf.Tensor | float  # seconds
    candidates: list  # `id`, `source`, `valid` of its last batch, [replicas][k] each
    batch: dict | None


class HostLoopResult:
    """What n steps did. Their values are read from the device when they are first asked for.

    picks: int64 [n, b]. of_each: metric -> float32 [n]. wait_seconds: time spent waiting for input.
    last, last_batch: output and super-batch of the last step, per replica. compiled: a program was
    traced and compiled, so that the time taken says nothing about the steps. observed: see
    `Observed`, each [n, ...], if the model observes.
    """

    def __init__(self, compiled: bool, last: StepOutput, calls: list["_Call"]):
        self.compiled, self.last, self.last_batch = compiled, last, calls[-1].batch
        self._names = sorted(last.metrics)
        self._calls = [call._replace(batch=None) for call in calls]
        self._values: dict[str, np.ndarray] = {}  # shared with `light`

    def light(self) -> "HostLoopResult":
        """The same without `last` and `last_batch`, which hold memory of the devices."""
        other = copy.copy(self)
        other.last = other.last_batch = None
        return other

    def read(self) -> dict[str, np.ndarray]:
        """Waits for the steps, and reads what they did, once: name -> [n, ...]."""
        if not self._values:
            read = [{name: v.numpy() for name, v in call.kept.items()} for call in self._calls]
            self._values |= {name: np.concatenate([one[name] for one in read]) for name in read[0]}
        return self._values

    @property
    def is_read(self) -> bool:
        return bool(self._values)

    @property
    def picks(self) -> np.ndarray:
        return self.read()["picks"]

    @property
    def of_each(self) -> dict[str, np.ndarray]:
        return dict(zip(self._names, self.read()["metrics"].T, strict=True))

    @property
    def observed(self) -> Observed | None:
        found = [self.read()[name] for name in Observed._fields if name in self.read()]
        return Observed(*found) if found else None

    @property
    def wait_seconds(self) -> float:
        return sum(float(call.wait) for call in self._calls)

    @property
    def n_calls(self) -> int:
        """Calls of a program that made the steps: one, or one a step."""
        return len(self._calls)

    def candidates(self, call: int = -1) -> list[np.ndarray]:
        """`id`, `source` and `valid` of a call's last super-batch, the rows of this host."""
        columns = self._calls[call].candidates
        return [np.concatenate([part.numpy() for part in column]) for column in columns]

    @property
    def metrics(self) -> dict[str, float]:
        """Those of the last step."""
        return {name: float(values[-1]) for name, values in self.of_each.items()}


OnSteps = Callable[[int, HostLoopResult], None]  # number of finished steps, what the last gave


def ignore(step: int, result: HostLoopResult) -> None:
    """The hook of a run that nobody watches."""


class HostLoop:
    """Runs train steps under the strategy; `run(plan, n)` is one call from the host.

    Where `runtime.steps_in_graph` holds, the n steps and the reading of their batches are one
    program, so that Python is not in the way. Elsewhere each step is a call and batches are read on
    the host, where a read error can be survived. model: built, with its optimizer. batches: the
    strategy's per-replica super-batches; with `steps_in_graph` of tf.data or tf.distribute.
    """

    def __init__(self, model: JestModel, runtime: Runtime, batches: Iterator):
        self._model, self._runtime, self.batches = model, runtime, batches
        self._programs = {}

    def run(
        self, plan: StepPlan, n_steps: int, note: Callable[[str], None] = str
    ) -> HostLoopResult:
        """`n_steps` steps at one plan. Compiles at the first call for a plan and never again, and
        tells `note` so before."""
        compiled = not self.is_compiled(plan)
        if compiled:
            note(plan.compiling())
            build = self._many_steps if self._runtime.steps_in_graph else self.one_step
            self._programs[plan] = build(plan)
        program, calls = self._programs[plan], []
        if self._runtime.steps_in_graph:
            output, batch, kept, wait = program(tf.constant(n_steps))
            return HostLoopResult(compiled, output, [self._call(batch, kept, wait)])
        for _ in range(n_steps):
            started = time.monotonic()
            batch = next(self.batches)
            waited = time.monotonic() - started
            output, kept = program(batch)
            calls.append(self._call(batch, kept, waited))
        return HostLoopResult(compiled, output, calls)

    def is_compiled(self, plan: StepPlan) -> bool:
        return plan in self._programs

    def _call(self, batch: dict, kept: dict, wait: tf.Tensor | float) -> "_Call":
        local = self._runtime.strategy.experimental_local_results
        columns = [local(batch[name]) for name in ("id", "source", "valid")]
        return _Call(kept, wait, columns, batch)

    def diagnose(self, last: StepOutput) -> dict[str, np.ndarray]:
        """What other policies would have got from the last step's scores; {} without scores."""
        if self._model.spec.policy == "uniform":  # Its reference may be there, for distillation.
            return {}
        values = self._diagnosis(last.scored, last.selection)
        return {name: self._first(value).numpy() for name, value in values.items()}

    @functools.cached_property
    def _diagnosis(self) -> Callable:
        run, diagnose = self._runtime.strategy.run, self._model.diagnose
        return tf.function(
            lambda scored, selection: run(diagnose, args=(scored, selection)), autograph=False
        )

    def part_seconds(self, plan: StepPlan, result: HostLoopResult) -> dict[str, float]:
        """Seconds of score_learner, score_reference and select, run alone; those the step has.

        They are parts of one program and cannot be timed inside it; see `cost.split_seconds`. It
        takes about two scorings, once a plan.
        """
        model, batch, scored = self._model, result.last_batch, result.last.scored
        parts = {}
        if scored.learner is not None:
            embed = functools.partial(model.embed, model.learner, at=plan.score)
            parts[SCORE_LEARNER] = self._seconds(embed, batch)
        if scored.reference is not None and "reference_zimg" not in batch:
            embed = functools.partial(model.embed, model.reference, at=plan.reference)
            parts[SCORE_REFERENCE] = self._seconds(embed, batch)
        if model.spec.policy != "uniform":
            parts[SELECT] = self._seconds(
                lambda rows: select(model.spec, *rows, model.collectives()), scored, n=1
            )
        return parts

    def _seconds(self, part: Callable, values: tuple | dict, n: int = 2) -> float:
        """Of the program that makes the first n results of a part."""

        def one_number(values):  # nothing else has to leave the device
            return tf.add_n([tf.reduce_sum(tf.cast(x, tf.float32)) for x in part(values)[:n]])

        compiled = self._runtime.compiled(one_number)
        program = tf.function(
            functools.partial(lambda rows: self._runtime.strategy.run(compiled, args=(rows,))),
            autograph=False,
        )
        for _ in range(2):  # the first call compiles
            started = time.monotonic()
            self._first(program(values)).numpy()
        return time.monotonic() - started

    def first_replica(self, values):
        """The nest of per-replica tensors as the first replica has it; None stays None."""
        return tf.nest.map_structure(lambda v: None if v is None else self._first(v), values)

    def one_step(self, plan: StepPlan) -> Callable:
        """The program batch -> (output, what is kept of every step: name -> tensor [1, ...])."""
        step = self._runtime.compiled(functools.partial(self._model.step, plan=plan))

        @tf.autograph.experimental.do_not_convert  # nothing in a step needs it, and it is slow
        def run_step(batch):
            output = self._runtime.strategy.run(step, args=(batch,))
            # One vector: the host waits for one copy, not for one a metric.
            metrics = [self._first(value) for _, value in sorted(output.metrics.items())]
            metrics = tf.stack([tf.cast(value, tf.float32) for value in metrics])
            kept = {"picks": self._first(output.picked_ids), "metrics": metrics}
            if output.observed is not None:
                kept |= self.first_replica(output.observed)._asdict()
            return output, {name: tf.expand_dims(value, 0) for name, value in kept.items()}

        # A partial has no code object: TensorFlow does not take the programs of several plans for
        # retraces of one function, and does not warn.
        return tf.function(functools.partial(run_step), reduce_retracing=False)

    def _many_steps(self, plan: StepPlan) -> Callable:
        """The program n -> (last output and batch, what is kept of every step [n, ...], wait)."""
        one_step = self.one_step(plan)

        def read_and_step():
            before = self._clock()
            with tf.control_dependencies([before]):
                batch = next(self.batches)
            local = [self._runtime.strategy.experimental_local_results(v) for v in batch.values()]
            with tf.control_dependencies(tf.nest.flatten(local)):
                wait = self._clock() - before
            return batch, *one_step(batch), wait

        spec = self._model.spec
        shapes = {"picks": (tf.int64, [spec.sub_batch]), "metrics": (tf.float32, [None])}
        if self._model.observe:
            shapes |= {
                "code": (tf.int64, [None]),  # and the records that were passed over
                "losses": (tf.float32, [spec.super_batch, 4]),
            }

        def many_steps(n_steps):
            all_kept = {
                name: tf.TensorArray(dtype, n_steps, element_shape=shape)
                for name, (dtype, shape) in shapes.items()
            }
            waited = tf.zeros([], tf.float64)
            for i in tf.range(n_steps - 1):
                _, _, kept, wait = read_and_step()
                all_kept = {name: array.write(i, kept[name][0]) for name, array in all_kept.items()}
                waited += wait
            batch, output, kept, wait = read_and_step()
            all_kept = {
                name: array.write(n_steps - 1, kept[name][0]).stack()
                for name, array in all_kept.items()
            }
            return output, batch, all_kept, waited + wait

        return tf.function(functools.partial(many_steps))

    def _clock(self) -> tf.Tensor:
        # TensorFlow refuses its clock where it must be deterministic; the wait is then told as 0.
        return tf.zeros([], tf.float64) if self._runtime.deterministic else tf.timestamp()

    def _first(self, per_replica):
        return self._runtime.strategy.experimental_local_results(per_replica)[0]


def why_refused(of_step: dict[str, float], sub_batch: int) -> str:
    """The reason, from the step's metrics."""
    usable, valid = (int(of_step[name]) for name in ("selection/n_candidates", "input/n_valid"))
    if usable < sub_batch <= valid:
        return (
            f"the model has diverged: {valid - usable} of {valid} rows have embeddings that are "
            "not finite; lower optimizer.learning_rate"
        )
    if usable < sub_batch:
        return (
            f"only {usable} usable rows for a sub-batch of {sub_batch}; set selection.super_batch "
            "higher (`python -m jest_tf.check --all_records` says how high)"
        )
    return f"loss {of_step['train/loss']}, gradient norm {of_step['train/gradient_norm']}"
