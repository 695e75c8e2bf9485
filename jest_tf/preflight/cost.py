"""What a step costs against training on as many examples without selection."""

import dataclasses

from ml_collections import ConfigDict

from jest_tf.devices import Device
from jest_tf.preflight.report import Section, decimal
from jest_tf.selection.joint import tile_rows
from jest_tf.training.assemble import Parts
from jest_tf.training.cost import CostModel, StepCost, forward_flops
from jest_tf.training.resolution import Fidelity, StepPlan, TrainPart

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
        section.add("selection", _layouts(parts.spec.super_batch, n_replicas))
    _whole_run(section, config.total_steps, each, device)
    section.add("an evaluation", _evaluation(parts, n_replicas, device))
    return section


def _evaluation(parts: Parts, n_replicas: int, device: Device) -> str:
    """Zero-shot and 10-shot on ImageNet, all replicas together."""
    flops = EVALUATED * forward_flops(parts.learner, Fidelity.full(parts.learner))
    rate = n_replicas * device.flops if device.flops else CPU_FLOPS
    how = f"{device.name}'s peak" if device.flops else f"{decimal(CPU_FLOPS)}FLOP/s"
    return (
        f"of ImageNet's size ({EVALUATED:,} pictures, as many prompts), {decimal(flops)}FLOP: at "
        f"least {flops / rate / 60:.2g} minutes at {how}; {EVALUATED / DECODED / 60:.2g} minutes "
        f"of one core to decode, at {DECODED} pictures a second"
    )


def _layouts(super_batch: int, n_replicas: int) -> str:
    """What of the selection depends on the number of replicas."""
    tile, alone = (tile_rows(super_batch, super_batch // n) for n in (n_replicas, 1))
    same = "the same examples as on one replica, except for near-ties"
    if tile == alone:
        return f"in tiles of {tile:,} rows: {same}"
    return (
        f"in tiles of {tile:,} rows, of {alone:,} on one replica: scores differ by rounding, {same}"
    )


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
