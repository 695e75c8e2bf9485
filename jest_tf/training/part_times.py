"""Seconds of the parts of a step, which are one program in a run and cannot be timed inside it.

The parts that choose are run alone once per step plan, after its first step; `cost.split_seconds`
divides every step's time by them. It takes about two scorings a plan, counted as compiling.
"""

import functools
import time
from collections.abc import Callable

import tensorflow as tf

from jest_tf.runtime.strategy import Runtime
from jest_tf.selection import select
from jest_tf.training.cost import SCORE_LEARNER, SCORE_REFERENCE, SELECT
from jest_tf.training.jest_model import JestModel, Scored
from jest_tf.training.resolution import StepPlan


def part_seconds(
    model: JestModel, runtime: Runtime, plan: StepPlan, batch: dict, scored: Scored
) -> dict[str, float]:
    """Seconds of score_learner, score_reference and select run alone; those the step has."""
    parts = {}
    if scored.learner is not None:
        parts[SCORE_LEARNER] = (
            lambda batch: _sum(model.embed(model.learner, batch, plan.score)[:2]), batch,
        )  # fmt: skip
    if scored.reference is not None and "reference_zimg" not in batch:
        parts[SCORE_REFERENCE] = (
            lambda batch: _sum(model.embed(model.reference, batch, plan.reference)[:2]), batch,
        )  # fmt: skip
    if model.spec.policy != "uniform":
        parts[SELECT] = (
            lambda scored: _sum(select(model.spec, *scored, model.collectives())[:1]), scored,
        )  # fmt: skip
    return {name: _seconds(runtime, part, values) for name, (part, values) in parts.items()}


def _sum(tensors: tuple[tf.Tensor, ...]) -> tf.Tensor:
    """One number that needs all of the tensors, so that nothing else has to leave the device."""
    return tf.add_n([tf.reduce_sum(tf.cast(x, tf.float32)) for x in tensors])


def _seconds(runtime: Runtime, part: Callable, values: tuple | dict) -> float:
    compiled = runtime.compiled(part)

    def run(values):
        return runtime.strategy.run(compiled, args=(values,))

    # A partial, so that TensorFlow does not warn of retraces: see HostLoop.
    program = tf.function(functools.partial(run), autograph=False)
    for _ in range(2):  # the first call compiles
        started = time.monotonic()
        runtime.strategy.experimental_local_results(program(values))[0].numpy()
    return time.monotonic() - started
