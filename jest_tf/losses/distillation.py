"""Distillation from the reference on the chosen batch (ACED, arXiv 2411.18674).

With s_ij = scale·<zimg_i, ztxt_j> of the learner, t_ij likewise of the reference, P = softmax t and
p = softmax s over the b texts of an image, and b examples over all replicas:

    L = 1/2b · Σ_i [KL(P_i· || p_i·) + KL(P_·i || p_·i)]        (the second over images of a text)
    G_ij = dL/ds_ij = 1/2b · [(p - P)_ij over texts + (p - P)_ij over images]

Biases drop out. The reference has no gradient; its embeddings are those that scored the batch, so
nothing is computed for it anew. Of the logits a tile exists at a time, see `tiles`.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from jest_tf.collectives import Collectives
from jest_tf.losses.tiles import Normalisers, PairBatch, PairGradients, normalisers, pair_gradients


class Teacher(NamedTuple):
    """The reference's view of this replica's rows."""

    zimg: tf.Tensor  # unit-norm float32 [n, d']
    ztxt: tf.Tensor
    scale: tf.Tensor  # of its logits
    weight: float  # of the distillation; the contrastive loss has 1


def distillation(
    batch: PairBatch,
    scale: tf.Tensor,
    own: tuple[Normalisers, Normalisers],
    teacher: Teacher,
    collectives: Collectives,
    *,
    block: int,
) -> tuple[tf.Tensor, PairGradients]:
    """This replica's weighted share of loss and gradient; own: the learner's normalisers."""
    zimg, ztxt = (tf.stop_gradient(tf.cast(z, tf.float32)) for z in (teacher.zimg, teacher.ztxt))
    theirs = PairBatch.gather(zimg, ztxt, collectives)._replace(all_captions=batch.all_captions)
    their_scale = tf.stop_gradient(tf.cast(teacher.scale, tf.float32))
    their = normalisers(theirs, their_scale, collectives, block=block)
    weight = tf.constant(teacher.weight, tf.float32)
    return _distillation(batch, theirs, scale, their_scale, own, their, weight, block=block)


@tf.function(jit_compile=True, autograph=False)
def _distillation(
    batch: PairBatch,
    theirs: PairBatch,
    scale: tf.Tensor,
    their_scale: tf.Tensor,
    own_normalisers: tuple[Normalisers, Normalisers],
    their_normalisers: tuple[Normalisers, Normalisers],
    weight: tf.Tensor,
    *,
    block: int,
) -> tuple[tf.Tensor, PairGradients]:
    factor = weight / (2 * batch.total)

    def weights_of(theirs: PairBatch, own: Normalisers, their: Normalisers) -> Callable:
        def weights(similarity: tf.Tensor, rows: tf.Tensor) -> tuple:
            local = rows - batch.first_row
            z = tf.gather(theirs.zimg, local)
            s = batch.without_ignored(scale * similarity, rows)
            t = their_scale * tf.matmul(z, theirs.all_ztxt, transpose_b=True)
            t = theirs.without_ignored(t, rows)
            g, loss = tf.zeros_like(s), tf.zeros([])
            for own_lse, their_lse in (
                (tf.gather(own.rows, local)[:, None], tf.gather(their.rows, local)[:, None]),
                (own.columns, their.columns),
            ):
                log_p, log_wanted = s - own_lse, t - their_lse
                wanted = tf.exp(log_wanted)
                g += tf.exp(log_p) - wanted
                loss += tf.reduce_sum(wanted * (log_wanted - log_p))
            # A bias shifts every logit and its log-sum-exp alike: its gradient is zero.
            return factor * g, factor * loss, tf.zeros([])

        return weights

    both = (
        weights_of(theirs, own_normalisers[0], their_normalisers[0]),
        weights_of(theirs.turned, own_normalisers[1], their_normalisers[1]),
    )
    return pair_gradients(batch, scale, both, block)
