"""What a selection is given and what it returns: `SelectionSpec`, `Embeddings`, `Selection`."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from jest_tf.selection_spec import SelectionSpec

__all__ = ["Embeddings", "Selection", "SelectionSpec"]


class Embeddings(NamedTuple):
    """One model's view of the candidates on this replica; z_ij = scale·<x_i, y_j> + bias."""

    zimg: tf.Tensor  # float [n, d], unit norm
    ztxt: tf.Tensor  # float [n, d], unit norm
    scale: tf.Tensor
    bias: tf.Tensor
    # float32 [n, 2] of `caption_hash`: rows that share one are no negatives of each other.
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
    """The chosen examples of one super-batch."""

    positions: tf.Tensor  # int32 [b], global, distinct, chunk by chunk, the same on every replica
    n_candidates: tf.Tensor  # int32 [], valid and finite rows; below b the step must be refused
    metrics: dict[str, tf.Tensor]  # float32 scalars
    n_valid: tf.Tensor  # int32 []; more than n_candidates: a model gave NaN or Inf
