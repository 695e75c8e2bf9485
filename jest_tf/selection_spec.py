"""How a sub-batch is chosen: `SelectionSpec` and its one validator. Imports no TensorFlow."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jest_tf.errors import UserError, nearest

POLICIES = ("uniform", "independent_top_k", "independent_sampled", "joint")
CRITERIA = ("learnability", "hard_learner", "easy_reference")
LOSSES = ("sigmoid", "softmax")
SCOPES = ("global", "replica")
CHOICES = {"policy": POLICIES, "criterion": CRITERIA, "loss": LOSSES, "scope": SCOPES}


@dataclasses.dataclass(frozen=True)
class SelectionSpec:
    """How `sub_batch` of `super_batch` examples are chosen; sizes are global. UserError: wrong."""

    super_batch: int
    sub_batch: int
    policy: str = "joint"
    criterion: str = "learnability"
    learner_weight: float = 1.0  # of the learner's loss in learnability; the paper: 1
    loss: str = "sigmoid"
    n_chunks: int = 16
    temperature: float = 1.0  # divides the logits before the draw; the paper: 1
    greedy: bool = False  # takes the largest logits without a draw
    trial: str = ""  # of `benchmarks.evidence`, see there
    scope: str = "global"  # global | replica: chunk_size / R from each, by the same global scores

    def __post_init__(self):
        if found := problems(dataclasses.asdict(self)):
            raise UserError(" ".join(found))

    @property
    def scores_learner(self) -> bool:
        """Whether the policy looks at the learner's embeddings of the super-batch."""
        return self.policy != "uniform" and self.criterion != "easy_reference"

    @property
    def scores_reference(self) -> bool:
        """Whether the policy looks at the reference's."""
        return self.policy != "uniform" and self.criterion != "hard_learner"

    @property
    def n_draws(self) -> int:
        """Chunks of equal size: n_chunks; a policy without chunks takes any number that divides."""
        return math.gcd(self.sub_batch, self.n_chunks)

    @property
    def chunk_size(self) -> int:
        """m: examples drawn per chunk."""
        return self.sub_batch // self.n_draws

    @property
    def filter_ratio(self) -> float:
        """f = 1 - b/B: the share of the super-batch that is dropped."""
        return 1 - self.sub_batch / self.super_batch

    def check_replicas(self, size: int) -> None:
        """Raises UserError unless the sizes can be shared by `size` replicas."""
        if found := replica_problems(dataclasses.asdict(self), size):
            raise UserError(" ".join(found))


def problems(fields: Mapping[str, Any]) -> list[str]:
    """What is wrong with the fields of a SelectionSpec; empty when one can be made of them."""
    found = []
    for name, valid in CHOICES.items():
        if fields[name] not in valid:
            field = name if name == "loss" else f"selection.{name}"
            hint = nearest(str(fields[name]), valid)
            found.append(f"{field} is {fields[name]!r}{hint}. Valid: {', '.join(valid)}.")
    sizes = {name: fields[name] for name in ("super_batch", "sub_batch", "n_chunks")}
    too_small = [name for name, size in sizes.items() if size < 1]
    found += [f"selection.{name} is {sizes[name]}; expected at least 1." for name in too_small]
    limits = {"temperature": "selection.greedy", "learner_weight": "criterion easy_reference"}
    for name, limit in limits.items():
        if not fields[name] > 0:
            found.append(
                f"selection.{name} is {fields[name]}; expected a positive number ({limit} is the "
                "limit of 0)."
            )
    if fields["learner_weight"] != 1 and fields["criterion"] != "learnability":
        found.append(
            f"selection.learner_weight = {fields['learner_weight']} has no meaning with criterion "
            f"{fields['criterion']!r}: only learnability weighs the learner against the reference. "
            "Leave it at 1."
        )
    if too_small:
        return found
    if sizes["sub_batch"] > sizes["super_batch"]:
        found.append(
            f"selection.sub_batch = {sizes['sub_batch']} is larger than selection.super_batch = "
            f"{sizes['super_batch']}: one cannot choose more than was loaded. Lower sub_batch."
        )
    if fields["policy"] == "joint" and sizes["sub_batch"] % sizes["n_chunks"]:
        fits = nearest_multiples("sub_batch", sizes["sub_batch"], sizes["n_chunks"])
        found.append(
            f"selection.sub_batch = {sizes['sub_batch']} is not divisible by selection.n_chunks = "
            f"{sizes['n_chunks']}. {fits}"
        )
    return found


def replica_problems(fields: Mapping[str, Any], n_replicas: int) -> list[str]:
    """What is wrong with the fields of a sound SelectionSpec for so many replicas."""
    found = []
    for name in ("super_batch", "sub_batch"):
        if fields[name] % n_replicas:
            fits = nearest_multiples(name, fields[name], n_replicas)
            found.append(
                f"selection.{name} = {fields[name]} is not divisible by the {n_replicas} replicas. "
                f"{fits}"
            )
    is_shared = fields["scope"] == "replica" and fields["policy"] == "joint"
    if is_shared and fields["sub_batch"] // fields["n_chunks"] % n_replicas:
        found.append(
            f"selection.scope = 'replica' gives each of the {n_replicas} replicas an equal part of "
            f"a chunk, but a chunk has {fields['sub_batch'] // fields['n_chunks']} examples. Lower "
            "n_chunks, or use selection.scope = 'global'."
        )
    return found


def nearest_multiples(name: str, value: int, divisor: int) -> str:
    """Advice for a size that `divisor` does not divide."""
    below = value // divisor * divisor
    return f"Nearest {name} that fit: {below or divisor} or {below + divisor}."
