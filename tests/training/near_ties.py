"""How long two layouts of a run pick the same, and by how much they part."""

from collections.abc import Sequence

import numpy as np
import oracle

from jest_tf.selection import SelectionSpec, draw
from jest_tf.training.host_loop import HostLoopResult

# Rounding differs between layouts, so an example whose perturbed logit (its Gumbel draw spreads
# over several units) is this close to the cut may be picked by one and not by the other.
NEAR_TIE = 1e-3


def steps_alike(spec: SelectionSpec, alone: Sequence[HostLoopResult], picks: Sequence) -> int:
    """Steps before the first in which the picks differ, or all; fails where that was no near-tie.

    From then on the two runs train on different examples. Rounding decides how soon, and it is
    another on each processor: within twenty steps it is rare.

    Args:
      spec: a joint policy.
      alone: the single steps of one device.
      picks: ids [steps][b] of the other layout, each step's in the order of the draw.
    """
    for step, (own, ids) in enumerate(zip(alone, picks, strict=True)):
        distance = _distance_from_cut(spec, own, ids)
        assert distance < NEAR_TIE, f"step {step + 1}: a pick was {distance} below the cut"
        if {*ids} != {*own.picks[0]}:
            return step
    return len(alone)


def _distance_from_cut(spec: SelectionSpec, own: HostLoopResult, ids: Sequence[int]) -> float:
    """By the slow truth, from the embeddings that one device had in this step."""
    learner, reference, valid, seed = own.last.scored
    draws = [
        draw.gumbel(seed, chunk, 0, spec.super_batch).numpy() for chunk in range(spec.n_chunks)
    ]
    row_of = {record: row for row, record in enumerate(own.last_batch["id"].numpy().tolist())}
    chunks = np.reshape([row_of[record] for record in np.asarray(ids).tolist()], [len(draws), -1])
    models = [
        z and {name: np.asarray(value) for name, value in z._asdict().items() if value is not None}
        for z in (learner, reference)
    ]
    assert valid.numpy().all()
    return oracle.cut_violation(spec.loss, spec.criterion, *models, np.stack(draws), chunks)
