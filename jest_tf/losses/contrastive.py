"""Contrastive losses over the whole batch, all replicas' negatives, in memory linear in the batch.

With z_ij = scale·<zimg_i, ztxt_j> + bias and b examples over all replicas:

    sigmoid  L = 1/b · Σ_ij softplus(∓z_ij)          (- on the diagonal: SigLIP)
    softmax  L = 1/2b · Σ_i [LSE_j z_ij + LSE_j z_ji - 2·z_ii]        (CLIP; bias drops out)

The gradient is made in the same pass as the loss, while a tile of logits is at hand (see `tiles`):
[n, d] is kept, never [n, b]. With captions, the sums over j ≠ i leave out the rows whose caption is
that of i.

A teacher adds distillation from the reference on the chosen batch (ACED, arXiv 2411.18674). With
t_ij = scale·<zimg_i, ztxt_j> of the reference, s_ij likewise of the learner, P = softmax t and
p = softmax s over the b texts of an image:

    L = 1/2b · Σ_i [KL(P_i· || p_i·) + KL(P_·i || p_·i)]        (the second over images of a text)
    G_ij = dL/ds_ij = 1/2b · [(p - P)_ij over texts + (p - P)_ij over images]

Its biases drop out, and the reference has no gradient: its embeddings are those that scored the
batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from jest_tf.collectives import LOCAL, Collectives
from jest_tf.errors import UserError
from jest_tf.losses.tiles import Normalisers, PairBatch, PairGradients, normalisers, pair_gradients

KINDS = ("sigmoid", "softmax")


class Teacher(NamedTuple):
    """The reference's view of this replica's rows."""

    zimg: tf.Tensor  # unit-norm float32 [n, d']
    ztxt: tf.Tensor
    scale: tf.Tensor  # of its logits
    weight: float  # of the distillation; the contrastive loss has 1


def loss_and_gradients(
    zimg: tf.Tensor,
    ztxt: tf.Tensor,
    scale: tf.Tensor,
    bias: tf.Tensor,
    *,
    kind: str = "sigmoid",
    collectives: Collectives = LOCAL,
    block: int | None = None,
    teacher: Teacher | None = None,
    captions: tf.Tensor | None = None,
) -> tuple[tf.Tensor, PairGradients]:
    """The share of the loss and of its gradient, both without a tape.

    zimg, ztxt: this replica's rows, unit-norm float32 [n, d]; n static, the same everywhere. kind:
    sigmoid | softmax, else UserError. block: rows of logits that exist at a time; default: as
    many as the device has room for. teacher: see `distillation`. captions: float32 [n, 2] of
    `caption_hash`; rows that share one are no negatives of each other. None: all other rows are.
    """
    if kind not in KINDS:
        raise UserError(f"loss = {kind!r}: expected one of {', '.join(KINDS)}")
    zimg, ztxt, scale, bias = (
        tf.stop_gradient(tf.cast(x, tf.float32)) for x in (zimg, ztxt, scale, bias)
    )
    batch = PairBatch.gather(zimg, ztxt, collectives, captions)
    block = batch.block(block, collectives)
    if kind == "softmax" or teacher is not None:
        own = normalisers(batch, scale, collectives, block=block)
    if kind == "sigmoid":
        loss, gradients = _sigmoid(batch, scale, bias, block=block)
    else:
        loss, gradients = _softmax(batch, scale, own, block=block)
    if teacher is None:
        return loss, gradients
    distilled, more = distillation(batch, scale, own, teacher, collectives, block=block)
    return loss + distilled, tf.nest.map_structure(tf.add, gradients, more)


@tf.function(jit_compile=True, autograph=False)
def _sigmoid(
    batch: PairBatch, scale: tf.Tensor, bias: tf.Tensor, *, block: int
) -> tuple[tf.Tensor, PairGradients]:
    def weights(similarity: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # A sign instead of a difference keeps the tiny loss of a well-matched pair exact.
        sign = 1.0 - 2.0 * tf.one_hot(rows, batch.total)
        logits = batch.without_ignored(sign * (scale * similarity + bias), rows)
        g = sign * tf.sigmoid(logits) / batch.total
        return g, tf.reduce_sum(tf.nn.softplus(logits)) / batch.total, tf.reduce_sum(g)

    return pair_gradients(batch, scale, (weights, weights), block)


@tf.function(jit_compile=True, autograph=False)
def _softmax(
    batch: PairBatch, scale: tf.Tensor, own: tuple[Normalisers, Normalisers], *, block: int
) -> tuple[tf.Tensor, PairGradients]:
    images, texts = own

    def weights_given(sums: Normalisers) -> Callable:
        def weights(similarity: tf.Tensor, rows: tf.Tensor) -> tuple:
            logits = batch.without_ignored(scale * similarity, rows)
            of_rows = tf.gather(sums.rows, rows - batch.first_row)[:, None]
            matched = 2.0 * tf.one_hot(rows, batch.total)
            g = tf.exp(logits - of_rows) + tf.exp(logits - sums.columns) - matched
            # A bias shifts every logit and its log-sum-exp alike: its gradient is zero.
            return g / (2 * batch.total), tf.zeros([]), tf.zeros([])

        return weights

    _, gradients = pair_gradients(
        batch, scale, (weights_given(images), weights_given(texts)), block
    )
    matched = scale * tf.reduce_sum(batch.zimg * batch.ztxt)
    loss = 0.5 * (tf.reduce_sum(images.rows) + tf.reduce_sum(texts.rows)) - matched
    return loss / batch.total, gradients


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
