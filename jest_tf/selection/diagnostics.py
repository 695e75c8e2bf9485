"""How good a selection is, against what simpler policies would have picked. For logging cadence."""

import dataclasses

import tensorflow as tf

from jest_tf.collectives import LOCAL, Collectives, room_of
from jest_tf.selection import scores
from jest_tf.selection.draw import compiled, mark
from jest_tf.selection.exchange import gather_picked
from jest_tf.selection.joint import add_chunk, exchange, tile_rows
from jest_tf.selection.scores import Term
from jest_tf.selection.select import pool, select
from jest_tf.selection.spec import Embeddings, Selection, SelectionSpec

_OTHER_DRAW = 0x5EED  # Keeps the uniform comparison independent of the step's own draw.


@tf.autograph.experimental.do_not_convert
def diagnostics(
    spec: SelectionSpec,
    selection: Selection,
    learner: Embeddings,
    reference: Embeddings,
    valid: tf.Tensor,
    seed: tf.Tensor,
    collectives: Collectives = LOCAL,
) -> dict[str, tf.Tensor]:
    """Compares the chosen with independent top-k and with a uniform draw of the same size.

    Costs two or three exact joint scores, b x b pairs each, shared by the replicas. Arguments as of
    `select`; both models that the criterion uses are needed, for policy uniform too.
    `joint_score`, `joint_score_independent_top_k`, `joint_score_uniform`: ℓ(Q) of the criterion,
    mean over the set's b examples. `overlap_independent_top_k`: share of the chosen that it takes
    as well. `entropy` (nats) and `effective_pool` = exp(entropy): of softmax(S_ii / temperature)
    over candidates. All float32 scalars, equal on all replicas. `s_ii`: float32 [n], the criterion
    of each own row alone, 0 where unusable.
    """

    def picks(policy, draw_seed):
        simpler = dataclasses.replace(spec, policy=policy, scope="global")
        return select(simpler, learner, reference, valid, draw_seed, collectives).positions

    top_k = picks("independent_top_k", seed)
    uniform = picks("uniform", seed + [_OTHER_DRAW, 0])
    models = scores.terms(spec, learner, reference)
    _, s_ii, usable = pool(spec.loss, models, valid)
    entropy = _entropy(s_ii / spec.temperature, usable, collectives)
    own = collectives.rank * usable.shape[0]
    nobody = tf.zeros_like(usable)
    both = mark(nobody, selection.positions, own) & mark(nobody, top_k, own)
    common = collectives.all_reduce_sum(tf.reduce_sum(tf.cast(both, tf.float32)))
    chosen = selection.metrics.get("joint_score")
    if chosen is None:
        chosen = joint_score(spec, selection.positions, models, usable, collectives)
    return {
        "joint_score": chosen,
        "joint_score_independent_top_k": joint_score(spec, top_k, models, usable, collectives),
        "joint_score_uniform": joint_score(spec, uniform, models, usable, collectives),
        "overlap_independent_top_k": common / spec.sub_batch,
        "entropy": entropy,
        "effective_pool": tf.exp(entropy),
        "s_ii": s_ii,
    }


def joint_score(
    spec: SelectionSpec,
    positions: tf.Tensor,
    models: list[Term],
    usable: tf.Tensor,
    collectives: Collectives = LOCAL,
) -> tf.Tensor:
    """ℓ(Q) of the set Q at `positions`: (1/b) Σ_{i,j in Q} S_ij, or the softmax form."""
    own = gather_picked([z.per_row for _, z in models], positions, collectives, spec.chunk_size)
    own = [Term(sign, z.with_rows(rows)) for (sign, z), rows in zip(models, own, strict=True)]
    share = spec.sub_batch // collectives.size
    state = _start(spec.loss, own)
    for chunk in tf.split(positions, spec.n_draws):
        picked = exchange(models, usable, chunk, collectives)
        sizes = tile_rows(spec.sub_batch, share), room_of(collectives)
        state = add_chunk(spec.loss, state, own, picked, *sizes)
    total = collectives.all_reduce_sum(_set_score(spec.loss, state, own))
    return total / spec.sub_batch


@compiled
def _start(loss, models):
    return scores.LOSSES[loss].start(models)


@compiled
def _set_score(loss, state, models):
    return tf.reduce_sum(scores.LOSSES[loss].set_score(state, models))


def _entropy(logits, usable, collectives):
    """Entropy in nats of softmax(logits) over the usable rows of all replicas."""
    logits = tf.where(usable, logits, -float("inf"))
    peak = tf.reduce_max(collectives.all_gather(tf.reduce_max(logits)[None]))
    weight = tf.exp(logits - peak)
    weighted = tf.reduce_sum(weight * tf.where(usable, logits - peak, 0.0))
    total, weighted = tf.unstack(
        collectives.all_reduce_sum(tf.stack([tf.reduce_sum(weight), weighted]))
    )
    return tf.math.log(total) - weighted / total
