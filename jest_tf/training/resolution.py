"""At which cost a step scores and trains: resolution, depth and text length, over a run.

Flexi-JEST (paper, section 3.4) scores the super-batch with a cheap approximation of the learner and
trains a share of the sub-batch at the same approximation, because only what is trained scores well.
That holds for every approximation here: larger patches, smaller images, fewer blocks, shorter text.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from jest_tf.errors import UserError
from jest_tf.models.dual_encoder import DualEncoderConfig

# Keeps the draws of the split apart from those of the selection, which has the same seed.
_SPLIT_SALT = 0x51E57


@dataclasses.dataclass(frozen=True)
class Resolution:
    """Side of image and patch in pixels, IMAGE/PATCH; UserError: the patches do not tile it."""

    image_size: int
    patch_size: int

    def __post_init__(self) -> None:
        sizes = (self.image_size, self.patch_size)
        if min(sizes) < 1 or self.image_size % self.patch_size:
            raise UserError(
                f"resolution {self}: expected IMAGE/PATCH in pixels, the image a multiple of the "
                "patch, such as 256/16"
            )

    @property
    def n_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def parse(cls, text: str) -> "Resolution":
        """'256/16' -> Resolution(256, 16)."""
        sizes = text.split("/")
        if len(sizes) != 2 or not all(size.strip().isdecimal() for size in sizes):
            raise UserError(f"resolution {text!r}: expected IMAGE/PATCH in pixels, such as 256/16")
        return cls(*map(int, sizes))

    def __str__(self) -> str:
        return f"{self.image_size}/{self.patch_size}"


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How closely a model is run: resolution, first blocks of each tower, tokens of text."""

    resolution: Resolution
    image_depth: int
    text_depth: int
    n_tokens: int

    @classmethod
    def full(cls, model: DualEncoderConfig) -> "Fidelity":
        """The model as it is evaluated and exported."""
        own = Resolution(model.image_size, model.patch_size)
        return cls(own, model.image.depth, model.text.depth, model.n_tokens)

    def __str__(self) -> str:
        return (
            f"{self.resolution}, {self.image_depth}+{self.text_depth} blocks, "
            f"{self.n_tokens} tokens"
        )


@dataclasses.dataclass(frozen=True)
class Approximation:
    """What is made cheaper; 0 and None leave the value as the model has it."""

    resolution: Resolution | None = None
    image_depth: int = 0
    text_depth: int = 0
    n_tokens: int = 0

    def of(self, full: Fidelity, name: str) -> Fidelity:
        """The fidelity that it makes of `full`; UserError: beyond the model's depth or length."""
        for field in ("image_depth", "text_depth", "n_tokens"):
            value, most = getattr(self, field), getattr(full, field)
            if not 0 <= value <= most:
                raise UserError(
                    f"{name}.{field} = {value}: expected 1 to {most}, the model's own (0: that one)"
                )
        asked = {field: value for field, value in vars(self).items() if value}
        return dataclasses.replace(full, **asked)


@dataclasses.dataclass(frozen=True)
class TrainPart:
    """`n_examples` of the sub-batch (all replicas) at one fidelity; None: as the batch has them."""

    at: Fidelity | None
    n_examples: int


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """What one step computes. Hashable: one compiled program per plan."""

    score: Fidelity | None  # fidelity at scoring
    reference: Fidelity | None  # likewise
    train: tuple[TrainPart, ...]  # parts of the sub-batch, one loss over all

    @classmethod
    def as_it_is(cls, sub_batch: int) -> "StepPlan":
        """Any dual encoder, run whole on what the batches hold."""
        return cls(score=None, reference=None, train=(TrainPart(None, sub_batch),))

    def compiling(self) -> str:
        """What to say before the program is built: where, and for about how long.

        Fitted to 160 runs of 5 and 6 blocks on 2 idle cores without accelerator.
        """
        trained = [part.at for part in self.train if part.at]
        scoring = [at for at in (self.score, self.reference) if at]
        n_trained, n_scoring = (
            sum(at.image_depth + at.text_depth for at in of) for of in (trained, scoring)
        )
        where = " and ".join(dict.fromkeys(f"{at.resolution}" for at in trained)) or "full size"
        seconds = 4 + 0.7 * n_trained + 0.4 * n_scoring
        return f"compiling the step ({where}), about {seconds:.0f} s"

    def split(self, positions: tf.Tensor, seed: tf.Tensor) -> list[tuple[Fidelity, tf.Tensor]]:
        """(fidelity, positions int32 [n_examples]) of each part: the picks int32 [b], split by
        `seed`.

        Sorted by position, each group of consecutive picks gives every part its share: the split is
        the same for any number of replicas, and with scope=replica no image travels.
        """
        if len(self.train) == 1:
            return [(self.train[0].at, positions)]
        counts = [part.n_examples for part in self.train]
        n_groups = math.gcd(*counts)
        groups = tf.reshape(tf.sort(positions), [n_groups, -1])
        keys = tf.random.stateless_uniform(
            groups.shape, tf.bitwise.bitwise_xor(seed, [_SPLIT_SALT, 0]),
            minval=None, maxval=None, dtype=tf.int32, alg="philox",
        )  # fmt: skip
        shuffled = tf.gather(groups, tf.argsort(keys, axis=1), batch_dims=1)
        shares = tf.split(shuffled, [count // n_groups for count in counts], axis=1)
        return [
            (part.at, tf.reshape(share, [-1]))
            for part, share in zip(self.train, shares, strict=True)
        ]


class ResolutionSchedule:
    """The plan of every step: a function of the step alone, so the same on every host and rerun.

    Every part of `sub_batch` must divide among `n_replicas`. stages: (fraction of training,
    resolution) in order; empty: the model's own. random: resolutions to draw from (FlexiViT) with
    `seed`, each for `hold_steps`, a multiple of the steps per host call. score: what is cheaper at
    scoring. low_share: share of the sub-batch trained as it is scored (the paper's λ = 0.5).
    reference: what is cheaper of the reference; reference_model: its sizes. UserError: a value is
    out of range or does not divide.
    """

    def __init__(
        self,
        model: DualEncoderConfig,
        *,
        sub_batch: int,
        total_steps: int,
        n_replicas: int = 1,
        stages: Sequence[tuple[float, Resolution]] = (),
        random: Sequence[Resolution] = (),
        hold_steps: int = 1,
        seed: int = 0,
        score: Approximation = Approximation(),
        low_share: float = 0.0,
        reference: Approximation = Approximation(),
        reference_model: DualEncoderConfig | None = None,
    ) -> None:
        if stages and random:
            raise UserError("resolution.stages and resolution.random are both set: choose one")
        if hold_steps < 1:
            raise UserError(f"resolution.hold_steps = {hold_steps}: expected 1 or more")
        self._full = Fidelity.full(model)
        self._ends, self._staged = _stage_ends(
            stages or [(1.0, self._full.resolution)], total_steps
        )
        self._random = tuple(random)
        self._hold_steps, self._seed = hold_steps, seed
        self._score = score
        self._sub_batch = sub_batch
        self._n_low = _low_examples(low_share, sub_batch, n_replicas)
        self._reference = reference.of(
            Fidelity.full(reference_model or model), "resolution.reference"
        )
        self.plans()

    def plan(self, step: int) -> StepPlan:
        """The plan of a step, counted from 0."""
        if self._random:
            draw = np.random.default_rng([self._seed, step // self._hold_steps])
            return self._plan_at(self._random[int(draw.integers(len(self._random)))])
        stage = sum(step >= end for end in self._ends[:-1])
        return self._plan_at(self._staged[stage])

    def plans(self) -> tuple[StepPlan, ...]:
        """All plans that the run can meet, in order: each is one program to compile."""
        return tuple(dict.fromkeys(map(self._plan_at, self._random or self._staged)))

    def steps_left(self, step: int) -> int:
        """Steps from `step` on that surely share its plan: no host loop may be longer."""
        if self._random:
            return self._hold_steps - step % self._hold_steps
        ahead = [end - step for end in self._ends if end > step]
        return ahead[0] if ahead else 1

    def _plan_at(self, resolution: Resolution) -> StepPlan:
        trained = dataclasses.replace(self._full, resolution=resolution)
        score = self._score.of(trained, "resolution.score")
        n_high = self._sub_batch - self._n_low
        parts = [TrainPart(score, self._n_low), TrainPart(trained, n_high)]
        if score == trained:
            parts = [TrainPart(trained, self._sub_batch)]
        parts = tuple(part for part in parts if part.n_examples)
        return StepPlan(score=score, reference=self._reference, train=parts)


def _stage_ends(
    stages: Sequence[tuple[float, Resolution]], total_steps: int
) -> tuple[list[int], tuple[Resolution, ...]]:
    """Step at which each stage ends, and the resolutions."""
    fractions = [fraction for fraction, _ in stages]
    if min(fractions) <= 0 or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise UserError(
            f"resolution.stages has the fractions {fractions}: expected numbers above 0 whose sum "
            "is 1"
        )
    ends = [round(total_steps * part) for part in np.cumsum(fractions)]
    return ends, tuple(resolution for _, resolution in stages)


def _low_examples(low_share: float, sub_batch: int, n_replicas: int) -> int:
    if not 0 <= low_share <= 1:
        raise UserError(f"resolution.low_share = {low_share}: expected 0 to 1")
    n_low = round(low_share * sub_batch)
    if not math.isclose(n_low, low_share * sub_batch, abs_tol=1e-6) or n_low % n_replicas:
        raise UserError(
            f"resolution.low_share = {low_share} of sub_batch = {sub_batch} is "
            f"{low_share * sub_batch:g} examples: expected a multiple of the {n_replicas} "
            "replica(s); 0.5 of an even share per replica always is"
        )
    return n_low
