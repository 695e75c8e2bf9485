"""Contrastive losses over the whole batch, all replicas' negatives, in memory linear in the batch.

With z_ij = scale·<zimg_i, ztxt_j> + bias and b examples over all replicas:

    sigmoid  L = 1/b · Σ_ij softplus(∓z_ij)          (- on the diagonal: SigLIP)
    softmax  L = 1/2b · Σ_i [LSE_j z_ij + LSE_j z_ji - 2·z_ii]        (CLIP; bias drops out)

The gradient is made in the same pass as the loss, while a tile of logits is at hand (see `tiles`):
[n, d] is kept, never [n, b]. A teacher adds the loss of `distillation`. With captions, the sums
over j ≠ i leave out the rows whose caption is that of i.
"""

from collections.abc import Callable

import tensorflow as tf

from jest_tf.collectives import LOCAL, Collectives
from jest_tf.errors import UserError
from jest_tf.losses.distillation import Teacher, distillation
from jest_tf.losses.tiles import Normalisers, PairBatch, PairGradients, normalisers, pair_gradients

KINDS = ("sigmoid", "softmax")


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
