"""What a JEST step costs beside a plain one: by formula for B/16, and measured on this machine.

    python -m benchmarks.step_cost [--rounds=9] [--figures=analytic,…] [--update_docs]

Prints one JSON object per line: figure, value, goal where there is one, and the sizes. All ratios
come from one run; measured programs take turns, and the fastest round of each counts. Measure on
an idle machine: other work slows the programs unequally, PyTorch's most, whose threads wait by
spinning. The measured rows use the sizes of `mu`.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks.figure_page import COST
from benchmarks.figures import emit
from benchmarks.timing import fastest
from jest_tf.config import base_config
from jest_tf.models.dual_encoder import VARIANTS, DualEncoder, DualEncoderConfig
from jest_tf.runtime import strategy
from jest_tf.selection import SelectionSpec, gather_picked, select
from jest_tf.training import cost, optimizer
from jest_tf.training.jest_model import TRAINED_FEATURES, JestModel, Part
from jest_tf.training.resolution import (
    Approximation,
    Fidelity,
    Resolution,
    ResolutionSchedule,
    StepPlan,
)

ROUNDS = flags.DEFINE_integer("rounds", 9, "Timed rounds; the fastest of each program counts.")
FIGURES = flags.DEFINE_list("figures", ["analytic", "measured", "torch"], "What to print.")
UPDATE_DOCS = flags.DEFINE_bool(
    "update_docs", False, "Keep the figures, and show them in docs/cost.md."
)

N_CHUNKS = 16
PAPER_BATCHES = (163_840, 32_768)  # B, b at f = 0.8
MEASURED_BATCHES = (640, 128)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A way to make a step cheaper, relative to the model's own sizes.

    Divisors of the image side, of the blocks and of the tokens, and the factor of the patch side;
    low_share is the share of the sub-batch trained as it is scored.
    """

    image: int = 1
    patch: int = 1
    image_depth: int = 1
    text_depth: int = 1
    tokens: int = 1
    low_share: float = 0.5

    def approximation(self, model: DualEncoderConfig) -> Approximation:
        return Approximation(
            Resolution(model.image_size // self.image, model.patch_size * self.patch),
            model.image.depth // self.image_depth,
            model.text.depth // self.text_depth,
            model.n_tokens // self.tokens,
        )


# `cheapest` is the one to beat plain training with; what each does to the picks is measured by
# training (docs/approximations.md), not here.
RECIPES = {
    "jest": Recipe(low_share=0.0),
    "flexi": Recipe(patch=2),
    "half_image": Recipe(image=2),
    "half_image_depth": Recipe(image_depth=2),
    "quarter_tokens": Recipe(tokens=4),
    "flexi_quarter_tokens": Recipe(patch=2, tokens=4),
    "cheapest": Recipe(patch=2, tokens=4, text_depth=2),
}


def plan_of(recipe: Recipe, model: DualEncoderConfig, sub_batch: int) -> StepPlan:
    """The plan of every step of a run with this recipe."""
    return ResolutionSchedule(
        model,
        sub_batch=sub_batch,
        total_steps=1,
        score=recipe.approximation(model),
        low_share=recipe.low_share,
    ).plan(0)


def specs(super_batch: int, sub_batch: int) -> tuple[SelectionSpec, SelectionSpec]:
    """(joint selection, plain training on as many examples)."""
    joint = SelectionSpec(super_batch=super_batch, sub_batch=sub_batch, n_chunks=N_CHUNKS)
    return joint, dataclasses.replace(joint, super_batch=sub_batch, policy="uniform")


def analytic_rows() -> Iterator[dict]:
    """FLOPs of a B/16 step at the paper's batch sizes over those of a plain one."""
    model = VARIANTS["B"]
    joint, plain = specs(*PAPER_BATCHES)
    sizes = {
        "model": "B/16", "image_size": model.image_size, "n_tokens": model.n_tokens,
        "super_batch": joint.super_batch, "sub_batch": joint.sub_batch, "reference": "cached",
    }  # fmt: skip
    ratios = {}
    for name, recipe in RECIPES.items():
        plan = plan_of(recipe, model, joint.sub_batch)
        ratios[name] = _flops_ratio(model, joint, plain, plan)
        yield _row("flops_ratio", ratios[name], "", recipe=name, **_described(plan))
    flexi = plan_of(RECIPES["flexi"], model, joint.sub_batch)
    image_alone = _image_tower_ratio(model, joint, flexi)
    yield _row("flexi_flops_ratio_image", image_alone, "<= 1.11", **sizes)
    yield _row("flexi_flops_ratio", ratios["flexi"], "<= 1.36", **sizes)
    low = _described(plan_of(RECIPES["cheapest"], model, joint.sub_batch))
    yield _row("cheapest_flops_ratio", ratios["cheapest"], "<= 1.0", **sizes, **low)


def _flops_ratio(
    model: DualEncoderConfig, joint: SelectionSpec, plain: SelectionSpec, plan: StepPlan
) -> float:
    full = plan_of(RECIPES["jest"], model, joint.sub_batch)
    ours = cost.CostModel(model, joint, model.image_size).step(plan)
    return ours.total_flops / cost.CostModel(model, plain, model.image_size).step(full).total_flops


def _image_tower_ratio(model: DualEncoderConfig, joint: SelectionSpec, plan: StepPlan) -> float:
    """The paper's accounting: the image tower alone, a training example three forwards."""

    def forward(at: Fidelity) -> int:
        return cost.image_tower_flops(model, at)

    scored = joint.super_batch * forward(plan.score)
    trained = sum(3 * part.n_examples * forward(part.at) for part in plan.train)
    return (scored + trained) / (3 * joint.sub_batch * forward(Fidelity.full(model)))


def measured_rows(rounds: int) -> Iterator[dict]:
    """Seconds of whole steps and of their parts, relative to plain training, at the sizes of mu."""
    model = VARIANTS["mu"]
    joint, plain = specs(*MEASURED_BATCHES)
    full = plan_of(RECIPES["jest"], model, joint.sub_batch)
    steps = {"plain": Step(model, plain, full)}
    for name, recipe in RECIPES.items():
        steps[name] = Step(model, joint, plan_of(recipe, model, joint.sub_batch))
    programs = {name: step.whole for name, step in steps.items()}
    programs |= {f"jest/{part}": program for part, program in steps["jest"].parts().items()}
    seconds = fastest(programs, rounds)
    base = steps["plain"].cost.total_flops
    for name in RECIPES:
        time_ratio = seconds[name] / seconds["plain"]
        flops_ratio = steps[name].cost.total_flops / base
        yield _row(
            "time_over_flops", time_ratio / flops_ratio, "0.75 to 1.25", recipe=name,
            time_ratio=time_ratio, flops_ratio=flops_ratio, seconds=seconds[name],
            **_described(steps[name].plan), **_mu_sizes(joint),
        )  # fmt: skip
    parts = {part: seconds[f"jest/{part}"] for part in ("score", "select", "train")}
    step = seconds["jest"]
    yield _row(
        "step_over_parts", step / sum(parts.values()), "<= 1.05", seconds=step, **parts,
        **_mu_sizes(joint),
    )  # fmt: skip


class Step:
    """A train step on a fixed super-batch of noise, whole and in parts, as a run would compile it.

    The reference's embeddings come with the batch, as from its cache.
    """

    def __init__(self, model: DualEncoderConfig, spec: SelectionSpec, plan: StepPlan) -> None:
        self.plan = plan
        self.cost = cost.CostModel(model, spec, model.image_size).step(plan)
        config = base_config()
        self._runtime = strategy.build(config)
        learner = DualEncoder(model, seed=0)
        self._model = JestModel(
            learner, None, spec, plan=plan, collectives=self._runtime.collectives,
            cached_reference=(model.init_scale, model.init_bias),
        )  # fmt: skip
        self._model.optimizer = optimizer.build(config.optimizer, 1000, learner.trainable_variables)
        self._batch = _noise(model, spec.super_batch)
        self.whole = self._compiled(lambda: self._model.step(self._batch).metrics["train/loss"])

    def parts(self) -> dict[str, Callable]:
        """score, select and train (with the gather), each on what the one before it gave."""
        model, seed = self._model, tf.constant([0, 0])
        score = self._compiled(lambda: model.score(self._batch, self.plan, seed))
        scored = score()
        choose = self._compiled(lambda: select(model.spec, *scored))
        positions = choose().positions
        train = self._compiled(lambda: self._train(positions, seed))
        return {"score": score, "select": choose, "train": train}

    def _train(self, positions: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        model, collectives = self._model, self._model.collectives()
        examples = {name: self._batch[name] for name in TRAINED_FEATURES}
        parts = [
            Part(at, gather_picked(examples, some, collectives))
            for at, some in self.plan.split(positions, seed)
        ]
        loss, gradients = model.loss_and_gradients(parts, collectives)
        n_candidates = tf.constant(model.spec.super_batch)
        return model.update(loss, gradients, n_candidates)["train/loss"]

    def _compiled(self, program: Callable) -> Callable:
        return tf.function(self._runtime.compiled(program), autograph=False)


def _noise(model: DualEncoderConfig, n: int) -> dict[str, tf.Tensor]:
    generator = np.random.default_rng(0)
    size = model.image_size
    z = generator.standard_normal((2, n, model.embed_dim)).astype(np.float32)
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    return {
        "id": tf.range(n, dtype=tf.int64),
        "image": tf.constant(generator.integers(0, 256, (n, size, size, 3)), tf.uint8),
        "tokens": tf.constant(
            generator.integers(0, model.vocab_size, (n, model.n_tokens)), tf.int32
        ),
        "valid": tf.ones([n], tf.bool),
        "source": tf.zeros([n], tf.int32),
        "reference_zimg": tf.constant(z[0]),
        "reference_ztxt": tf.constant(z[1]),
    }


def torch_rows(rounds: int) -> Iterator[dict]:
    """A plain training step against the same towers in PyTorch, on the same cores."""
    if importlib.util.find_spec("torch") is None:
        yield _row("train_vs_torch", None, ">= 1.0", reason="torch is not installed")
        return
    from benchmarks.torch_towers import TrainStep

    model = VARIANTS["mu"]
    joint, plain = specs(*MEASURED_BATCHES)
    full = plan_of(RECIPES["jest"], model, joint.sub_batch)
    ours = Step(model, plain, full).whole
    theirs = TrainStep(model, plain.sub_batch)
    seconds = fastest({"ours": ours, "torch": theirs}, rounds)
    rates = {name: plain.sub_batch / took for name, took in seconds.items()}
    yield _row(
        "train_vs_torch", rates["ours"] / rates["torch"], ">= 1.0",
        images_per_second=rates["ours"], torch_images_per_second=rates["torch"],
        **_mu_sizes(plain),
    )  # fmt: skip


def _described(plan: StepPlan) -> dict:
    """Fidelities and shares of a plan, for a row."""
    return {
        "score": str(plan.score),
        "train": {str(part.at): part.n_examples for part in plan.train},
    }


def _mu_sizes(spec: SelectionSpec) -> dict:
    return {
        "model": "mu", "super_batch": spec.super_batch, "sub_batch": spec.sub_batch,
        "n_chunks": spec.n_chunks, "reference": "cached",
    }  # fmt: skip


def _row(figure: str, value: float | None, goal: str, **details) -> dict:
    return {"figure": figure, "value": value, "goal": goal, "unit": "ratio", **details}


def main(_: list[str]) -> None:
    groups = {
        "analytic": analytic_rows,
        "measured": lambda: measured_rows(ROUNDS.value),
        "torch": lambda: torch_rows(ROUNDS.value),
    }
    unknown = set(FIGURES.value) - set(groups)
    if unknown:
        raise app.UsageError(f"--figures has {sorted(unknown)}: expected some of {list(groups)}")
    for name in FIGURES.value:
        lines = [emit(**row) for row in groups[name]()]
        if UPDATE_DOCS.value:
            COST.keep(lines)


if __name__ == "__main__":
    app.run(main)
