"""What the bundle holds: selections and train steps, with sizes, inputs as seeds, and FLOPs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from ml_collections import ConfigDict

from jest_tf.collectives import LOCAL
from jest_tf.config import base_config
from jest_tf.preflight import cost
from jest_tf.selection import Embeddings, SelectionSpec, select
from jest_tf.training import assemble
from jest_tf.training.cost import CostModel, select_flops

SELECTIONS = ((10_240, 2_048), (40_960, 8_192), (163_840, 32_768))  # B, b
STEPS = ("plain", "jest", "flexi")
TINY = {"depth": 2, "width": 32, "heads": 2, "mlp_dim": 64}


@dataclasses.dataclass
class Program:
    """run: a function of `inputs`, TensorSpecs by name, to named outputs. flops: of one call.

    sizes: what a reader has to know, and what figures are put side by side by.
    """

    name: str
    run: Callable[..., dict[str, tf.Tensor]]
    inputs: dict[str, tf.TensorSpec]
    sizes: dict[str, Any]
    flops: float
    variables: tuple = ()


def selection(super_batch: int, sub_batch: int, loss: str, embed_dim: int = 768) -> Program:
    """Joint selection by learnability, from float32 embeddings to positions, on one device."""
    spec = SelectionSpec(super_batch, sub_batch, loss=loss)
    rows, scalar = tf.TensorSpec([super_batch, embed_dim]), tf.TensorSpec([])
    inputs = {f"{who}_{side}": rows for who in ("learner", "reference") for side in ("img", "txt")}
    inputs |= {f"{who}_{x}": scalar for who in ("learner", "reference") for x in ("scale", "bias")}
    inputs |= {
        "valid": tf.TensorSpec([super_batch], tf.bool),
        "seed": tf.TensorSpec([2], tf.int32),
    }

    def run(**given):
        models = [
            Embeddings(*(given[f"{who}_{x}"] for x in ("img", "txt", "scale", "bias")))
            for who in ("learner", "reference")
        ]
        found = select(spec, *models, given["valid"], given["seed"])
        return {"positions": found.positions, "joint_score": found.metrics["joint_score"]}

    sizes = {"what": "selection", "loss": loss, "B": super_batch, "b": sub_batch, "d": embed_dim}
    flops = select_flops(spec, [embed_dim, embed_dim], 1)
    return Program(f"selection-{loss}-{super_batch}", run, inputs, sizes, flops)


def step_config(kind: str, variant: str, sub_batch: int, tiny: bool) -> ConfigDict:
    """The configuration of a plain SigLIP, JEST, or Flexi-JEST step."""
    c = base_config()
    c.model.variant, c.precision, c.data.vocab_size = variant, "bfloat16", 32_000
    c.model.image_size, c.model.patch_size, c.data.image_size = 224, 16, 224
    if tiny:
        c.model.sizes = {"image": TINY, "text": TINY, "embed_dim": 16}
        c.model.image_size = c.data.image_size = 64
        c.data.vocab_size, c.precision = 100, "float32"
    c.selection.sub_batch, c.selection.super_batch = sub_batch, 5 * sub_batch
    c.selection.policy, c.selection.n_chunks = "joint", 16
    c.log.ledger_records = 0  # the step alone, as others make it
    side = c.model.image_size
    if kind == "plain":
        c.selection.policy, c.selection.super_batch, c.selection.n_chunks = "uniform", sub_batch, 1
    if kind == "flexi":
        cheap = f"{side}/{2 * c.model.patch_size}"
        c.resolution.score.resolution = c.resolution.reference.resolution = cheap
        c.resolution.low_share = 0.5
    return c


def train_step(kind: str, variant: str, sub_batch: int, tiny: bool = False) -> Program:
    """A whole step of `step_config`: bfloat16 towers, float32 weights."""
    c = step_config(kind, variant, sub_batch, tiny)
    learner = assemble.build_model(c, c.data.vocab_size)
    reference = None if kind == "plain" else assemble.build_model(c, c.data.vocab_size)
    sizes = learner.config, reference.config if reference else None
    plan = assemble.resolution_schedule(c, *sizes, 1).plan(0)
    model = assemble.build_jest_model(c, learner, reference, plan, lambda: LOCAL)
    side, n = c.data.image_size, c.selection.super_batch
    inputs = {
        "id": tf.TensorSpec([n], tf.int64),
        "image": tf.TensorSpec([n, side, side, 3], tf.uint8),
        "tokens": tf.TensorSpec([n, c.data.n_tokens], tf.int32),
        "valid": tf.TensorSpec([n], tf.bool),
    }

    def run(**batch):
        output = model.step(batch, plan)
        return {"ids": output.picked_ids, "loss": output.metrics["train/loss"]}

    costs = CostModel(learner.config, model.spec, c.data.image_size, reference=sizes[1])
    told = {"what": "step", "kind": kind, "model": f"{variant}/16", "b": sub_batch, "B": n}
    told["estimated_bytes"] = estimated_bytes(c)
    every = (*learner.variables, *(reference.variables if reference else ()))
    variables = tuple(v.value for v in (*every, *model.optimizer.variables))
    name = f"step-{kind}-{variant}16-{sub_batch}"
    return Program(name, run, inputs, told, costs.step(plan).total_flops, variables)


def estimated_bytes(c: ConfigDict) -> int:
    """The memory that `check` expects of such a step, beside what the compiler takes."""
    parts = assemble.parts_of(c, n_replicas=1)
    phases = cost.transient(c, parts, parts.schedule.plan(0), n_replicas=1)
    return sum(cost.persistent(c, parts, n_replicas=1).values()) + max(phases.values())
