"""What is wrong with a config: alone, on so many hosts and replicas, with so many records.

Imports no TensorFlow: a wrong config is refused in a second.
"""

import math
from collections.abc import Iterator

from ml_collections import ConfigDict

from jest_tf import selection_spec
from jest_tf.config import (
    AUGMENTATIONS,
    HELD_OUT,
    PRECISIONS,
    RESIZES,
    SAME_CAPTION,
    STRATEGIES,
    VARIANTS,
    base_config,
    flat,
    needs_reference,
    profiled_steps,
)
from jest_tf.errors import UserError, nearest
from jest_tf.tuning import tuning_problems


def problems(config: ConfigDict) -> list[str]:
    """All that is wrong with the config by itself: values, arithmetic. Empty when it is sound.

    Each line names the field, what was found, what was expected, and the fix.
    """
    found = selection_spec.problems({"loss": config.loss, **config.selection})
    return [*found, *_wrong_values(config), *_wrong_together(config), *tuning_problems(config)]


CHOICES = {
    "precision": PRECISIONS, "same_caption": SAME_CAPTION, "model.variant": VARIANTS,
    "data.resize": RESIZES, "strategy.kind": STRATEGIES,
}  # fmt: skip
# (which values are right, how to say so, fields)
BOUNDS = (
    (lambda x: x >= 1, "at least 1", (
        "total_steps", "data.image_size", "data.n_tokens", "data.n_lanes", "model.image_size",
        "model.patch_size", "strategy.steps_per_loop", "checkpoint.keep", "log.every_steps",
        "log.samples_every_steps", "log.samples_per_group", "log.max_refused_steps",
    )),
    (lambda x: x >= 8, "at least 8 tokens", ("data.vocab_size",)),
    (lambda x: 0 < x < math.inf, "a positive number", (
        "model.image.learning_rate", "model.text.learning_rate", "model.lora.alpha",
        "optimizer.learning_rate", "optimizer.clip_norm", "model.init_scale",
    )),
    (lambda x: 0 <= x < math.inf, "a number that is not negative", (
        "seed", "optimizer.weight_decay", "optimizer.warmup_steps", "checkpoint.every_minutes",
        "checkpoint.every_steps", "log.picks_every_steps", "log.ledger_records",
    )),
    (lambda x: x >= 0, "a weight above 0, or 0 for none", ("reference.distillation",)),
    (lambda x: x >= 0, "a number, or 0 for all GPUs", ("strategy.n_devices",)),
    (lambda x: x >= 0, "the examples of one pass, or 0 for all at once", ("strategy.micro_batch",)),
    (lambda x: x >= 0, "a rank such as 8, or 0 for none", ("model.lora.rank",)),
    (lambda x: 0 <= x < 1, "a share below 1, or 0 for none", ("data.eval_share",)),
    (lambda x: 0 <= x < 1, "a decay such as 0.999, or 0 for none", (
        "optimizer.ema", "optimizer.beta_1", "optimizer.beta_2",
    )),
    (lambda x: 0 < x <= 1, "a share above 0, 1 for all records", ("data.prefilter",)),
    (lambda x: 0 <= x <= 1, "0 (never) to 1", ("log.min_score_share",)),
    (lambda x: 0 <= x <= 1, "a share, 0 to 1", ("data.max_bad_share",)),
)  # fmt: skip


def _wrong_values(c: ConfigDict) -> Iterator[str]:
    values, known = flat(c), flat(base_config())
    for field in values:  # a file may set any name
        if field not in known and not field.startswith(("evals.", "model.sizes.")):
            yield f"{field} is no field of a config{nearest(field, known)}. Correct its name."
    chosen = [(field, values[field], valid) for field, valid in CHOICES.items()]
    chosen += [(f"data.augment ({name})", name, AUGMENTATIONS) for name in c.data.augment]
    for field, value, valid in chosen:
        if value not in valid:
            yield f"{field} is {value!r}{nearest(str(value), valid)}. Valid: {', '.join(valid)}."
    for is_right, expected, fields in BOUNDS:
        for field in fields:
            if not is_right(values[field]):
                yield f"{field} is {values[field]}; expected {expected}."
    if c.data.prefilter < 1 and not c.reference.cache:
        yield f"data.prefilter is {c.data.prefilter}, but reference.cache, which scores, is empty."
    for name, spec in c.evals.items():
        if (every := spec.get("every_steps", 0)) < 0:
            yield f"evals.{name}.every_steps is {every}; expected steps, or 0 for at the end."
        if spec.data == HELD_OUT and not c.data.eval_share:
            yield (
                f"evals.{name}.data is {HELD_OUT!r}, but data.eval_share is 0: nothing is held "
                "out. Set --config.data.eval_share=0.05, or name other data."
            )


def _wrong_together(c: ConfigDict) -> Iterator[str]:
    s = c.selection
    if c.data.n_lanes > 0 and s.super_batch % c.data.n_lanes:
        yield (
            f"selection.super_batch = {s.super_batch} is not divisible by data.n_lanes = "
            f"{c.data.n_lanes}. "
            + selection_spec.nearest_multiples("super_batch", s.super_batch, c.data.n_lanes)
        )
    if c.model.patch_size > 0 and c.model.image_size % c.model.patch_size:
        yield (
            f"model.image_size = {c.model.image_size} is not divisible by model.patch_size = "
            f"{c.model.patch_size}."
        )
    if c.data.image_size < c.model.image_size:
        yield (
            f"data.image_size = {c.data.image_size} is below model.image_size = "
            f"{c.model.image_size}: pictures would be decoded to less than the model looks at. Set "
            f"--config.data.image_size={c.model.image_size}."
        )
    if needs_reference(c) and not (c.reference.workdir or c.reference.cache):
        why = f"selection.policy = {s.policy!r} with criterion {s.criterion!r} needs"
        if c.reference.distillation > 0:
            why = f"reference.distillation = {c.reference.distillation} needs"
        yield (
            f"{why} a reference model; set --config.reference.workdir to the run that trained "
            "it, or --config.reference.cache to its embeddings."
        )
    if not c.data.train:
        yield "data.train is empty; give tfds:NAME[/CONFIG][:SPLIT] or the path of a manifest."
    if c.log.every_steps > 0 and c.log.samples_every_steps % c.log.every_steps:
        yield (
            f"log.samples_every_steps = {c.log.samples_every_steps} is not a multiple of "
            f"log.every_steps = {c.log.every_steps}; examples are kept when scalars are."
        )
    try:
        profiled_steps(c.profile.steps)
    except UserError as error:
        yield str(error)
    if c.optimizer.warmup_steps >= c.total_steps:
        yield (
            f"optimizer.warmup_steps = {c.optimizer.warmup_steps} leaves nothing of total_steps = "
            f"{c.total_steps}. Lower warmup_steps."
        )


def replica_problems(config: ConfigDict, n_hosts: int, n_replicas: int) -> list[str]:
    """What is wrong with the sizes for this many hosts and replicas (known once a strategy is)."""
    found = selection_spec.replica_problems(config.selection, n_replicas)
    if config.data.n_lanes % n_hosts:
        found.append(
            f"data.n_lanes = {config.data.n_lanes} is not a multiple of the {n_hosts} hosts."
        )
    return found


# Passes over the data, trained: more are a slip of the pen and no experiment.
MOST_PASSES = 1_000


def data_problems(config: ConfigDict, n_records: int) -> list[str]:
    """What is wrong with the sizes for this many records: `check` and `train` say it."""
    s, found = config.selection, []
    passes = config.total_steps * s.sub_batch / n_records
    if passes > MOST_PASSES:
        steps = max(1, MOST_PASSES * n_records // s.sub_batch)
        found.append(
            f"the run trains {passes:,.0f} times on each of the {n_records:,} records: it would "
            f"learn them by heart. {steps:,} steps are {MOST_PASSES:,} passes: lower "
            "--config.total_steps, or train on more data."
        )
    read = s.super_batch / config.data.prefilter
    if read > n_records:
        loads, more = f"loads {s.super_batch:,} pairs", "Use more data, or"
        if s.super_batch <= n_records:
            loads = f"takes {s.super_batch:,} pairs out of {read:,.0f} (data.prefilter)"
            more = "Raise --config.data.prefilter, use more data, or"
        found.append(
            f"a step {loads}, and there are {n_records:,}: a super-batch would hold the same pair "
            f"more than once, as a negative of itself. {more} smaller batches "
            "(--config.selection.super_batch and sub_batch; sub_batch= of most configs sets both)."
        )
    return found


def require_sound(found: list[str]) -> None:
    """Raises a UserError that lists the problems, if there are any."""
    if found:
        lines = "\n".join(f"  - {line}" for line in found)
        raise UserError(f"the config has {len(found)} problem(s):\n{lines}")
