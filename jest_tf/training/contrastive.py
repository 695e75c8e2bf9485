"""Contrastive losses over the whole batch, all replicas' negatives, in memory linear in the batch.

With z_ij = scale·<zimg_i, ztxt_j> + bias and b examples over all replicas:

    sigmoid  L = 1/b · Σ_ij softplus(∓z_ij)          (- on the diagonal: SigLIP)
    softmax  L = 1/2b · Σ_i [LSE_j z_ij + LSE_j z_ji - 2·z_ii]        (CLIP; bias drops out)

Everything follows from the matrix G_ij = dL/dz_ij, of which only a few rows exist at any time:

    dzimg_i = scale · Σ_j G_ij ztxt_j      dztxt_j = scale · Σ_i G_ij zimg_i
    dscale = Σ_i <zimg_i, Σ_j G_ij ztxt_j>      dbias = Σ_ij G_ij

A replica takes its images against all texts and its texts against all images, so it ends up with
the whole gradient of its own rows, and no collective is needed on the way back. The gradient is
made in the same pass as the loss, while a tile of logits is at hand: [n, d] is kept, never [n, b].
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from jest_tf.errors import UserError
from jest_tf.selection.collectives import LOCAL, Collectives

KINDS = ("sigmoid", "softmax")

# 16 MiB of float32: large enough for full matmul speed, small beside a tower's activations.
TILE_ELEMENTS = 2**22


class ContrastiveGradients(NamedTuple):
    """This replica's share of the gradient: whole for its rows, partial sums for the scalars."""

    zimg: tf.Tensor  # [n, d]
    ztxt: tf.Tensor  # [n, d]
    scale: tf.Tensor  # []
    bias: tf.Tensor  # []


def contrastive_loss(
    zimg: tf.Tensor,
    ztxt: tf.Tensor,
    scale: tf.Tensor,
    bias: tf.Tensor,
    *,
    kind: str = "sigmoid",
    collectives: Collectives = LOCAL,
    block: int | None = None,
) -> tf.Tensor:
    """This replica's share of the mean loss: the sum over replicas is the loss, float32 [].

    The sum over replicas of the gradients of the shares is the gradient of the loss, as if all
    embeddings lay in one place. See `loss_and_gradients` for the arguments and errors.
    """
    loss, gradients = loss_and_gradients(
        zimg, ztxt, scale, bias, kind=kind, collectives=collectives, block=block
    )

    @tf.custom_gradient
    def with_gradient(*inputs: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        del inputs
        return tf.identity(loss), lambda upstream: tuple(upstream * g for g in gradients)

    return with_gradient(zimg, ztxt, tf.convert_to_tensor(scale), tf.convert_to_tensor(bias))


def loss_and_gradients(
    zimg: tf.Tensor,
    ztxt: tf.Tensor,
    scale: tf.Tensor,
    bias: tf.Tensor,
    *,
    kind: str = "sigmoid",
    collectives: Collectives = LOCAL,
    block: int | None = None,
) -> tuple[tf.Tensor, ContrastiveGradients]:
    """The share of the loss and of its gradient, both without a tape.

    Args:
      zimg, ztxt: this replica's rows, unit-norm float32 [n, d]; n static, the same everywhere.
      scale, bias: float32 [], the same everywhere.
      kind: sigmoid | softmax.
      collectives: how the embeddings of the other replicas are had.
      block: rows of logits that exist at a time; default: as many as fill 16 MiB.

    Raises:
      UserError: `kind` is unknown.
    """
    if kind not in KINDS:
        raise UserError(f"loss = {kind!r}: expected one of {', '.join(KINDS)}")
    zimg, ztxt, scale, bias = (
        tf.stop_gradient(tf.cast(x, tf.float32)) for x in (zimg, ztxt, scale, bias)
    )
    local = collectives.size == 1
    batch = _Batch(
        zimg=zimg,
        ztxt=ztxt,
        all_zimg=zimg if local else collectives.all_gather(zimg),
        all_ztxt=ztxt if local else collectives.all_gather(ztxt),
        first_row=tf.cast(collectives.rank, tf.int32) * zimg.shape[0],
    )
    block = min(block or max(TILE_ELEMENTS // batch.total, 1), batch.rows)
    if kind == "sigmoid":
        return _sigmoid(batch, scale, bias, block=block)
    row_lse, column_lse = _log_sum_exps(batch, scale, block=block)
    return _softmax(
        batch,
        scale,
        row_lse,
        column_lse,
        collectives.all_gather(row_lse),
        collectives.all_gather(column_lse),
        block=block,
    )


class _Batch(NamedTuple):
    """Rows of this replica, rows of all replicas, and where the first begin in the second."""

    zimg: tf.Tensor  # [n, d]
    ztxt: tf.Tensor  # [n, d]
    all_zimg: tf.Tensor  # [b, d]
    all_ztxt: tf.Tensor  # [b, d]
    first_row: tf.Tensor  # int32 []

    @property
    def rows(self) -> int:
        return self.zimg.shape[0]

    @property
    def total(self) -> int:
        return self.all_zimg.shape[0]

    @property
    def turned(self) -> "_Batch":
        """Images and texts exchanged: its rows are the columns of the logits."""
        return _Batch(self.ztxt, self.zimg, self.all_ztxt, self.all_zimg, self.first_row)


@tf.function(jit_compile=True, autograph=False)
def _sigmoid(
    batch: _Batch, scale: tf.Tensor, bias: tf.Tensor, *, block: int
) -> tuple[tf.Tensor, ContrastiveGradients]:
    def weights(similarity: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # A sign instead of a difference keeps the tiny loss of a well-matched pair exact.
        sign = 1.0 - 2.0 * tf.one_hot(rows, batch.total)
        logits = sign * (scale * similarity + bias)
        g = sign * tf.sigmoid(logits) / batch.total
        return g, tf.reduce_sum(tf.nn.softplus(logits)) / batch.total, tf.reduce_sum(g)

    return _gradients(batch, scale, (weights, weights), block)


@tf.function(jit_compile=True, autograph=False)
def _softmax(
    batch: _Batch,
    scale: tf.Tensor,
    row_lse: tf.Tensor,
    column_lse: tf.Tensor,
    all_row_lse: tf.Tensor,
    all_column_lse: tf.Tensor,
    *,
    block: int,
) -> tuple[tf.Tensor, ContrastiveGradients]:
    def weights_given(own: tf.Tensor, others: tf.Tensor) -> Callable:
        def weights(similarity: tf.Tensor, rows: tf.Tensor) -> tuple:
            logits = scale * similarity
            own_lse = tf.gather(own, rows - batch.first_row)[:, None]
            matched = 2.0 * tf.one_hot(rows, batch.total)
            g = tf.exp(logits - own_lse) + tf.exp(logits - others) - matched
            # A bias shifts every logit and its log-sum-exp alike: its gradient is zero.
            return g / (2 * batch.total), tf.zeros([]), tf.zeros([])

        return weights

    both = weights_given(row_lse, all_column_lse), weights_given(column_lse, all_row_lse)
    _, gradients = _gradients(batch, scale, both, block)
    matched = scale * tf.reduce_sum(batch.zimg * batch.ztxt)
    loss = 0.5 * (tf.reduce_sum(row_lse) + tf.reduce_sum(column_lse)) - matched
    return loss / batch.total, gradients


@tf.function(jit_compile=True, autograph=False)
def _log_sum_exps(batch: _Batch, scale: tf.Tensor, *, block: int) -> tuple[tf.Tensor, tf.Tensor]:
    """log Σ_j exp z_ij of this replica's images and log Σ_i exp z_ij of its texts, [n] each."""

    def of_rows(side: _Batch) -> tf.Tensor:
        def tile(_, z: tf.Tensor, rows: tf.Tensor) -> tuple[tuple, tf.Tensor]:
            del rows
            logits = scale * tf.matmul(z, side.all_ztxt, transpose_b=True)
            return (), tf.reduce_logsumexp(logits, axis=1)

        return _over_tiles(tile, side, (), block)[1]

    return of_rows(batch), of_rows(batch.turned)


def _gradients(
    batch: _Batch, scale: tf.Tensor, weights: tuple[Callable, Callable], block: int
) -> tuple[tf.Tensor, ContrastiveGradients]:
    """Loss and gradient from `weights`, one function for rows of images and one for rows of texts.

    weights(similarity [k, b], rows [k]) -> (tile of G [k, b], its part of the loss, its sum).
    """
    alone = batch.rows == batch.total

    def tile(weigh: Callable, side: _Batch, turned_too: bool) -> Callable:
        def of_rows(sums: tuple, z: tf.Tensor, rows: tf.Tensor) -> tuple[tuple, tf.Tensor]:
            g, loss, g_sum = weigh(tf.matmul(z, side.all_ztxt, transpose_b=True), rows)
            sums = [sums[0] + loss, sums[1] + g_sum, *sums[2:]]
            if turned_too:
                # With one replica the columns of this tile complete the texts' gradient as well.
                sums[2] += tf.matmul(g, z, transpose_a=True)
            return tuple(sums), tf.matmul(g, side.all_ztxt)

        return of_rows

    zeros = (tf.zeros([]), tf.zeros([]))
    start = (*zeros, tf.zeros_like(batch.all_ztxt)) if alone else zeros
    sums, dzimg = _over_tiles(tile(weights[0], batch, alone), batch, start, block)
    if alone:
        dztxt = sums[2]
    else:
        turned = batch.turned
        dztxt = _over_tiles(tile(weights[1], turned, False), turned, zeros, block)[1]
    dscale = tf.reduce_sum(batch.zimg * dzimg)
    return sums[0], ContrastiveGradients(scale * dzimg, scale * dztxt, dscale, sums[1])


def _over_tiles(
    tile: Callable, batch: _Batch, sums: tuple[tf.Tensor, ...], block: int
) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
    """`tile(sums, z [k, d], global rows [k]) -> (sums, result [k, ...])` over all of batch.zimg.

    Tiles of `block` rows in a loop, then the rest, so that any number of rows will do.
    """
    n_full, rest = divmod(batch.rows, block)

    def at(start: tf.Tensor | int, size: int, sums: tuple) -> tuple[tuple, tf.Tensor]:
        z = tf.slice(batch.zimg, [start, 0], [size, batch.zimg.shape[1]])
        return tile(sums, z, batch.first_row + start + tf.range(size))

    # The first tile and the rest stand outside the loop: the first tells the result's shape.
    sums, first = at(0, block, sums)
    results = [first]
    if n_full > 1:

        def body(k: tf.Tensor, array: tf.TensorArray, *sums: tf.Tensor) -> tuple:
            sums, result = at(k * block, block, sums)
            return k + 1, array.write(k - 1, result), *sums

        array = tf.TensorArray(tf.float32, n_full - 1, element_shape=first.shape)
        _, array, *sums = tf.while_loop(
            lambda k, *_: k < n_full,
            body,
            (1, array, *sums),
            parallel_iterations=1,
        )
        results.append(tf.reshape(array.stack(), [(n_full - 1) * block, *first.shape[1:]]))
    if rest:
        sums, last = at(n_full * block, rest, tuple(sums))
        results.append(last)
    return tuple(sums), tf.concat(results, axis=0)
