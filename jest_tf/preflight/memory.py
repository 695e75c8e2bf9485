"""What a replica must hold during a step, by formula: an estimate before anything is compiled.

Counts weights and optimizer in float32, every tensor that a backward pass reads, the widest moment
of a forward pass, and the buffers of selection and exchange. `--compile_for` says what XLA makes of
it.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from jest_tf.collectives import TILE_VALUES
from jest_tf.devices import Device
from jest_tf.models.dual_encoder import DualEncoderConfig, TowerConfig
from jest_tf.preflight.report import Section, binary
from jest_tf.selection.joint import tile_rows
from jest_tf.training.assemble import Parts, teacher_dim
from jest_tf.training.resolution import Fidelity, StepPlan
from jest_tf.tuning import TOWERS, TrainedTower, trained_tower

FLOAT = 4
ROOM = 0.75  # Of a device, for an estimate: XLA took up to 1.29 times it (docs/accelerators.md).


def check_memory(config: ConfigDict, parts: Parts, n_replicas: int, device: Device) -> Section:
    """Bytes per replica by what they are for, against the memory of a device."""
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
