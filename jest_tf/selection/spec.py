"""What a selection is given and what it returns: `SelectionSpec`, `Embeddings`, `Selection`."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from jest_tf.errors import UserError

POLICIES = ("uniform", "independent_top_k", "independent_sampled", "joint")
CRITERIA = ("learnability", "hard_learner", "easy_reference")
LOSSES = ("sigmoid", "softmax")
SCOPES = ("global", "replica")


class Embeddings(NamedTuple):
    """One model's view of the candidates on this replica.

    zimg, ztxt: float [n, d], unit norm. scale, bias: float scalars; z_ij = scale·<x_i, y_j> + bias.
    captions: float32 [n, 2] of `caption_hash`, the same for both models: rows that share one are no
        negatives of each other. None: all other rows are negatives.
    """

    zimg: tf.Tensor
    ztxt: tf.Tensor
    scale: tf.Tensor
    bias: tf.Tensor
    captions: tf.Tensor | None = None

    @property
    def per_row(self) -> list[tf.Tensor]:
        """The tensors with a row for each candidate, [n, ...]."""
        return [x for x in (self.zimg, self.ztxt, self.captions) if x is not None]

    def with_rows(self, per_row: Sequence[tf.Tensor]) -> "Embeddings":
        """The same model's view of other rows, given as `per_row` gives them."""
        return self._replace(**dict(zip(("zimg", "ztxt", "captions"), per_row, strict=False)))

    def map_rows(self, function: Callable[[tf.Tensor], tf.Tensor]) -> "Embeddings":
        """`function` of each tensor in `per_row`."""
        return self.with_rows([function(x) for x in self.per_row])


class Selection(NamedTuple):
    """The chosen examples of one super-batch.

    positions: int32 [b], global positions in the super-batch, distinct, chunk by chunk, and the
        same on every replica.
    n_candidates: int32 [], rows of the super-batch that were valid and finite. Below b the
        selection is void (`positions` then holds unusable rows) and the step must be refused.
    metrics: float32 scalars, the same on every replica.
    """

    positions: tf.Tensor
    n_candidates: tf.Tensor
    metrics: dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class SelectionSpec:
    """How `sub_batch` of `super_batch` examples are chosen. All sizes are global.

    learner_weight multiplies the learner's loss in learnability; 1.0 is the paper. temperature
    divides the logits before the draw; 1.0 is the paper. greedy takes the largest logits without a
    draw. scope 'global' takes the best of all replicas; 'replica' takes
    chunk_size / R from each, by the same global scores.

    Raises:
      UserError: a value is unknown, or the sizes do not divide.
    """

    super_batch: int
    sub_batch: int
    policy: str = "joint"
    criterion: str = "learnability"
    learner_weight: float = 1.0
    loss: str = "sigmoid"
    n_chunks: int = 16
    temperature: float = 1.0
    greedy: bool = False
    scope: str = "global"

    def __post_init__(self):
        for field, allowed in (
            ("policy", POLICIES),
            ("criterion", CRITERIA),
            ("loss", LOSSES),
            ("scope", SCOPES),
        ):
            if getattr(self, field) not in allowed:
                raise UserError(
                    f"selection.{field} is {getattr(self, field)!r}; "
                    f"use one of {', '.join(allowed)}"
                )
        if not 0 < self.sub_batch <= self.super_batch:
            raise UserError(
                f"selection.sub_batch is {self.sub_batch} and super_batch {self.super_batch}; "
                "sub_batch must be at least 1 and at most super_batch"
            )
        if self.n_chunks < 1 or self.sub_batch % self.n_chunks:
            raise UserError(
                f"selection.n_chunks is {self.n_chunks}; it must divide sub_batch "
                f"({self.sub_batch}) so that every chunk has the same size"
            )
        if not self.temperature > 0:
            raise UserError(
                f"selection.temperature is {self.temperature}; it must be above 0 "
                "(set selection.greedy for the limit of 0)"
            )
        if not self.learner_weight > 0:
            raise UserError(
                f"selection.learner_weight is {self.learner_weight}; it must be above 0 "
                "(criterion easy_reference is the limit of 0)"
            )
        if self.learner_weight != 1 and self.criterion != "learnability":
            raise UserError(
                f"selection.learner_weight is {self.learner_weight} with criterion "
                f"{self.criterion}; only learnability weighs the learner against the reference"
            )

    @property
    def scores_learner(self) -> bool:
        """Whether the policy looks at the learner's embeddings of the super-batch."""
        return self.policy != "uniform" and self.criterion != "easy_reference"

    @property
    def scores_reference(self) -> bool:
        """Whether the policy looks at the reference's."""
        return self.policy != "uniform" and self.criterion != "hard_learner"

    @property
    def chunk_size(self) -> int:
        """m: examples drawn per chunk."""
        return self.sub_batch // self.n_chunks

    @property
    def filter_ratio(self) -> float:
        """f = 1 - b/B: the share of the super-batch that is dropped."""
        return 1 - self.sub_batch / self.super_batch

    def check_replicas(self, size: int) -> None:
        """Raises UserError unless the sizes can be shared by `size` replicas."""
        if self.super_batch % size:
            raise UserError(
                f"super_batch {self.super_batch} is not divisible by {size} replicas; "
                "change super_batch or the number of replicas"
            )
        if self.sub_batch % size:
            raise UserError(
                f"sub_batch {self.sub_batch} is not divisible by {size} replicas; "
                "each replica trains on sub_batch / replicas examples"
            )
        if self.scope == "replica" and self.policy == "joint" and self.chunk_size % size:
            raise UserError(
                f"selection.scope=replica takes chunk_size / replicas examples from each replica, "
                f"but chunk_size is {self.chunk_size} (sub_batch {self.sub_batch} / n_chunks "
                f"{self.n_chunks}) and there are {size} replicas; lower n_chunks, or use "
                "selection.scope=global"
            )
