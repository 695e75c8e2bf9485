"""Estimates of a step, by formula: its cost against training on as many examples without selection,
and what a replica must hold during it. `--compile_for` says what XLA makes of it.
"""

import dataclasses
from collections.abc import Mapping

from ml_collections import ConfigDict

from jest_tf.collectives import TILE_VALUES
from jest_tf.devices import Device
from jest_tf.models.dual_encoder import DualEncoderConfig, TowerConfig
from jest_tf.preflight.report import Section, binary, decimal
from jest_tf.selection.joint import tile_rows
from jest_tf.training.assemble import Parts, teacher_dim
from jest_tf.training.cost import CostModel, StepCost, forward_flops
from jest_tf.training.resolution import Fidelity, StepPlan, TrainPart
from jest_tf.tuning import TOWERS, TrainedTower, trained_tower

# What a laptop or a small server computes in float32, all cores together.
CPU_FLOPS = 1e11
# ImageNet: 50,000 pictures to classify, 10 shots of 1,000 classes by 3 seeds; 80 prompts a class.
EVALUATED = 80_000
DECODED = 300  # pictures a second and core, assumed


def check_cost(config: ConfigDict, parts: Parts, n_replicas: int, device: Device) -> Section:
    """FLOPs of each phase, as multiples of a plain step on the same sub-batch."""
    section = Section("Cost of a step, against plain training on the same sub-batch")
    plain = plain_step(config, parts, n_replicas).total_flops
    for plan in parts.schedule.plans():
        cost = step_cost(config, parts, plan, n_replicas)
        phases = ", ".join(f"{name} {flops / plain:.3g}x" for name, flops in cost.flops.items())
        label = " + ".join(str(part.at.resolution) for part in plan.train)
        section.add(f"trained at {label}", f"{cost.total_flops / plain:.3g}x: {phases}")
    each = cost.total_flops / n_replicas
    text = f"{decimal(cost.total_flops)}FLOP, {decimal(each)}FLOP per replica"
    if device.flops:
        text += f", {each / device.flops:.3g} s at {device.name}'s peak"
    section.add("one step", text)
    if parts.spec.policy == "joint":
        rows = parts.spec.super_batch
        tile, alone = (tile_rows(rows, rows // n) for n in (n_replicas, 1))
        other = f", of {alone:,} on one replica: scores differ by rounding,"
        section.add(
            "selection",
            f"in tiles of {tile:,} rows{':' if tile == alone else other} the same examples as on "
            "one replica, except for near-ties",
        )
    _whole_run(section, config.total_steps, each, device)
    flops = EVALUATED * forward_flops(parts.learner, Fidelity.full(parts.learner))
    rate = n_replicas * device.flops if device.flops else CPU_FLOPS
    how = f"{device.name}'s peak" if device.flops else f"{decimal(CPU_FLOPS)}FLOP/s"
    section.add(
        "an evaluation",
        f"of ImageNet's size ({EVALUATED:,} pictures, as many prompts), {decimal(flops)}FLOP: at "
        f"least {flops / rate / 60:.2g} minutes at {how}; {EVALUATED / DECODED / 60:.2g} minutes "
        f"of one core to decode, at {DECODED} pictures a second",
    )
    return section


def _whole_run(section: Section, steps: int, each: float, device: Device) -> None:
    """How long all steps take at best, from the FLOPs of a replica's last kind of step."""
    rate = device.flops or {"cpu": CPU_FLOPS}.get(device.name)
    if rate is None:
        return
    hours = steps * each / rate / 3600
    duration = f"{hours / 24:,.3g} days" if hours >= 48 else f"{hours:,.2g} hours"
    how = f"at {device.name}'s peak" if device.flops else f"at {decimal(CPU_FLOPS)}FLOP/s, a CPU's"
    section.add("the run", f"at least {duration} {how}")
    if not device.flops and hours >= 24:
        section.problems.append(
            f"{steps:,} steps take at least {duration} on a CPU ({decimal(CPU_FLOPS)}FLOP/s). Take "
            "fewer steps or a smaller model, or name the accelerator that it will run on with "
            "--device."
        )


def step_cost(config: ConfigDict, parts: Parts, plan: StepPlan, n_replicas: int) -> StepCost:
    """What the ledger will book for a step at `plan`."""
    of_run = CostModel.of(config, parts.learner, parts.spec, parts.reference, n_replicas)
    return of_run.step(plan)


def plain_step(config: ConfigDict, parts: Parts, n_replicas: int) -> StepCost:
    """The same number of examples drawn at random and trained at full fidelity."""
    b = parts.spec.sub_batch
    uniform = dataclasses.replace(parts.spec, policy="uniform", super_batch=b)
    full = Fidelity.full(parts.learner)
    plan = StepPlan(score=full, reference=full, train=(TrainPart(full, b),))
    of_run = CostModel.of(config, parts.learner, uniform, None, n_replicas)
    return dataclasses.replace(of_run, distils=False).step(plan)


FLOAT = 4
ROOM = 0.75  # Of a device, for an estimate: XLA took up to 1.29 times it (docs/accelerators.md).


def check_memory(config: ConfigDict, parts: Parts, n_replicas: int, device: Device) -> Section:
    """Bytes per replica by what they are for, against the memory of a device.

    Counts weights and optimizer in float32, every tensor that a backward pass reads, the widest
    moment of a forward pass, and the buffers of selection and exchange.
    """
    section = Section(f"Memory per replica (estimate) on {device.name}")
    kept = persistent(config, parts, n_replicas)
    phases = {}
    for plan in parts.schedule.plans():
        for name, size in transient(config, parts, plan, n_replicas, device.tile_values).items():
            phases[name] = max(phases.get(name, 0), size)
    for name, size in (kept | phases).items():
        section.add(name, binary(size))
    total = sum(kept.values()) + max(phases.values())
    share = total / device.memory
    section.add("peak", f"{binary(total)} = {share:.0%} of {binary(device.memory)}")
    if share > ROOM:
        largest = max(phases, key=phases.get)
        section.problems.append(
            f"about {binary(total)} per replica, most of it for {largest}, and {device.name} has "
            f"{binary(device.memory)}. Use strategy.micro_batch (fewer examples at a time) or "
            "strategy.recompute, more replicas, a smaller sub_batch or super_batch, bfloat16, or a "
            "larger device."
        )
    return section


def persistent(config: ConfigDict, parts: Parts, n_replicas: int) -> dict[str, int]:
    """What stays on a replica from step to step, in bytes."""
    kept = {
        f"learner ({parts.n_learner / 1e6:.4g} M)": FLOAT * parts.n_learner,
        "optimizer (2 moments)": 2 * FLOAT * parts.n_trained,
    }
    if config.optimizer.ema:
        kept["averaged weights"] = FLOAT * parts.n_trained
    if parts.reference:
        kept[f"reference ({parts.n_reference / 1e6:.4g} M)"] = FLOAT * parts.n_reference
    rows = parts.spec.super_batch // n_replicas
    kept["super-batch"] = rows * _example_bytes(config)
    return kept


def transient(
    config: ConfigDict, parts: Parts, plan: StepPlan, n_replicas: int, room: int = TILE_VALUES
) -> dict[str, int]:
    """What each phase of a step holds while it lasts, in bytes; one phase at a time.

    room: similarities that exist at a time.
    """
    spec, width = parts.spec, 2 if config.precision == "bfloat16" else FLOAT
    rows, share = spec.super_batch // n_replicas, spec.sub_batch // n_replicas
    micro_batch, recompute = config.strategy.micro_batch, config.strategy.recompute
    phases = {}
    models = [(parts.learner, plan.score)] if spec.scores_learner else []
    models += [(parts.reference, plan.reference)] if parts.reference else []
    at_once = min(rows, micro_batch or rows)
    for model, at in models:
        name = f"scoring at {at.resolution}"
        phases[name] = max(phases.get(name, 0), at_once * forward_bytes(model, at, width))
    if spec.policy != "uniform":
        phases["selection"] = selection_bytes(parts, rows, n_replicas, room)
    gradients = FLOAT * parts.n_trained
    width_of_pairs = parts.learner.embed_dim + teacher_dim(config, parts)
    # Embeddings and their gradients of both sides; a tile of logits, its weights, and two between.
    loss = 4 * FLOAT * (spec.sub_batch * width_of_pairs + min(room, share * spec.sub_batch))
    training = gradients + loss + share * _example_bytes(config)
    trained = {name: trained_tower(config, name) for name in TOWERS}
    how = width, recompute, trained
    activations = [
        (part.n_examples // n_replicas, backward_bytes(parts.learner, part.at, *how))
        for part in plan.train
    ]
    if 0 < micro_batch < share:  # A micro-batch at a time, and its gradient beside the sum.
        training += gradients + max(min(n, micro_batch) * size for n, size in activations)
    else:
        training += sum(n * size for n, size in activations)
    name = " + ".join(str(part.at.resolution) for part in plan.train)
    phases[f"training at {name}"] = training
    return phases


def forward_bytes(model: DualEncoderConfig, at: Fidelity, width: int) -> int:
    """The widest moment of a forward pass of one example; towers run one after the other."""

    def tower(t: TowerConfig, tokens: int) -> int:
        attention = 4 * t.width * width + t.heads * tokens * (FLOAT + width)
        mlp = (t.width + 2 * t.mlp_dim) * width
        return tokens * (t.width * width + max(attention, mlp))

    pixels = 3 * at.resolution.image_size**2 * width
    return max(tower(model.image, at.resolution.n_patches) + pixels, tower(model.text, at.n_tokens))


def backward_bytes(
    model: DualEncoderConfig,
    at: Fidelity,
    width: int,
    recompute: bool,
    trained: Mapping[str, TrainedTower],
) -> int:
    """What the backward pass of one example reads, down to the lowest block that trains."""

    def block(t: TowerConfig, tokens: int) -> int:
        # Both residuals, both normalised, queries to values, mixed heads; the MLP before and after
        # its GELU; attention weights.
        return tokens * (8 * t.width + 2 * t.mlp_dim + t.heads * tokens) * width

    def depth(name: str, of_all: int) -> int:
        return max(of_all - trained[name].first_block(of_all), 0)

    # Of the text tower's last block only one token is computed.
    towers = (
        (model.image, at.resolution.n_patches, depth("image", at.image_depth)),
        (model.text, at.n_tokens, max(depth("text", at.text_depth) - 1, 0)),
    )
    if recompute:
        blocks = sum(depth * tokens * t.width * width for t, tokens, depth in towers)
        blocks += max(block(t, tokens) for t, tokens, depth in towers)
    else:
        blocks = sum(depth * block(t, tokens) for t, tokens, depth in towers)
    return blocks + 3 * at.resolution.image_size**2 * width


def selection_bytes(parts: Parts, rows: int, n_replicas: int, room: int) -> int:
    """Embeddings of the candidates, of a chunk, and one block of similarities of each model."""
    spec = parts.spec
    models = [parts.learner] if spec.scores_learner else []
    models += [parts.reference or parts.learner] if spec.scores_reference else []
    dims = sum(2 * model.embed_dim for model in models)
    if spec.policy != "joint":
        return FLOAT * rows * dims
    chunk = spec.chunk_size
    candidates = 2 * n_replicas * min(chunk, rows)
    # Each model has two blocks, and the product that sums them has a second copy.
    tile = tile_rows(spec.super_batch, rows)
    blocks = 4 * len(models) * chunk * max(tile, min(rows, room // chunk))
    return FLOAT * (rows * dims + chunk * dims + candidates + blocks)


def _example_bytes(config: ConfigDict) -> int:
    return 3 * config.data.image_size**2 + 4 * config.data.n_tokens + 13  # id, valid, source
