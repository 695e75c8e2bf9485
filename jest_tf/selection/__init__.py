"""Joint example selection as pure functions of tensors: no model, no data, no strategy."""

from jest_tf.collectives import LOCAL, Collectives
from jest_tf.ops.captions import caption_hash
from jest_tf.selection.diagnostics import diagnostics, joint_score
from jest_tf.selection.exchange import gather_picked
from jest_tf.selection.select import pair_loss, pair_rank, select, select_by_loss
from jest_tf.selection.spec import Embeddings, Selection, SelectionSpec

__all__ = [
    "LOCAL",
    "Collectives",
    "Embeddings",
    "Selection",
    "SelectionSpec",
    "caption_hash",
    "diagnostics",
    "gather_picked",
    "joint_score",
    "pair_loss",
    "pair_rank",
    "select",
    "select_by_loss",
]
