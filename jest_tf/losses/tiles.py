"""Sums over all pairs of a batch, a tile of similarities at a time: memory linear in the batch.

A loss over the logits z_ij = scale·<zimg_i, ztxt_j> + bias of b images and b texts is known by its
matrix G_ij = dL/dz_ij, of which only a few rows exist at any time:

    dzimg_i = scale · Σ_j G_ij ztxt_j      dztxt_j = scale · Σ_i G_ij zimg_i
    dscale = Σ_i <zimg_i, Σ_j G_ij ztxt_j>      dbias = Σ_ij G_ij

A replica takes its images against all texts and its texts against all images, so it ends up with
the whole gradient of its own rows, and no collective is needed on the way back.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from jest_tf.collectives import Collectives, room_of
from jest_tf.ops.captions import IGNORED, same_caption
from jest_tf.ops.words import Spread


class PairGradients(NamedTuple):
    """This replica's share of the gradient: whole for its rows, partial sums for the scalars."""

    zimg: tf.Tensor  # [n, d]
    ztxt: tf.Tensor  # [n, d]
    scale: tf.Tensor  # []
    bias: tf.Tensor  # []


class PairBatch(NamedTuple):
    """Own rows, all rows, where the former begin in the latter, and `caption_hash`es of all."""

    zimg: tf.Tensor  # [n, d]
    ztxt: tf.Tensor  # [n, d]
    all_zimg: tf.Tensor  # [b, d]
    all_ztxt: tf.Tensor  # [b, d]
    first_row: tf.Tensor  # int32 []
    all_captions: tf.Tensor | None = None  # [b, 2]

    @property
    def rows(self) -> int:
        return self.zimg.shape[0]

    @property
    def total(self) -> int:
        return self.all_zimg.shape[0]

    @property
    def turned(self) -> "PairBatch":
        """Images and texts exchanged: its rows are the columns of the logits."""
        return self._replace(
            zimg=self.ztxt, ztxt=self.zimg, all_zimg=self.all_ztxt, all_ztxt=self.all_zimg
        )

    @classmethod
    def gather(
        cls,
        zimg: tf.Tensor,
        ztxt: tf.Tensor,
        collectives: Collectives,
        captions: tf.Tensor | None = None,
    ) -> "PairBatch":
        """This replica's rows [n, d], n the same everywhere, and those of all replicas."""

        sides = [x for x in (zimg, ztxt, captions) if x is not None]
        if collectives.size > 1:
            sides = _of_all(sides, collectives)
        all_zimg, all_ztxt, *all_captions = sides
        return cls(
            zimg=zimg,
            ztxt=ztxt,
            all_zimg=all_zimg,
            all_ztxt=all_ztxt,
            first_row=tf.cast(collectives.rank, tf.int32) * zimg.shape[0],
            all_captions=all_captions[0] if all_captions else None,
        )

    def without_ignored(self, logits: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """A tile of logits [k, b] of global `rows` [k], IGNORED where two rows share a caption."""
        if self.all_captions is None:
            return logits
        same = same_caption(tf.gather(self.all_captions, rows), self.all_captions)
        return tf.where(same & (rows[:, None] != tf.range(self.total)), IGNORED, logits)

    def block(self, wanted: int | None, collectives: Collectives) -> int:
        """Rows of similarities that exist at a time; by default as many as the device has room."""
        return min(wanted or max(room_of(collectives) // self.total, 1), self.rows)


def _of_all(sides: list[tf.Tensor], collectives: Collectives) -> list[tf.Tensor]:
    """Each [n, k] of all replicas, [b, k], in one exchange."""
    widths = tuple(x.shape[1] for x in sides)
    if spread := getattr(collectives, "spread", None):
        shape = (sides[0].shape[0], sum(widths))
        return _apart(spread, collectives.all_reduce_sum(_together(spread, sides)), shape, widths)
    return tf.split(collectives.all_gather(tf.concat(sides, axis=1)), widths, axis=1)


@tf.function(jit_compile=True, autograph=False)
def _together(spread: Spread, sides: list[tf.Tensor]) -> tf.Tensor:
    return spread.of(tf.concat(sides, axis=1))


@tf.function(jit_compile=True, autograph=False)
def _apart(spread: Spread, summed: tf.Tensor, shape: tuple, widths: tuple) -> list[tf.Tensor]:
    return tf.split(spread.joined(summed, summed.dtype, shape), widths, axis=1)


class Normalisers(NamedTuple):
    """Log-sum-exps of logits: of this replica's rows [n], and of all columns [b]."""

    rows: tf.Tensor
    columns: tf.Tensor


def normalisers(
    batch: PairBatch, scale: tf.Tensor, collectives: Collectives, *, block: int
) -> tuple[Normalisers, Normalisers]:
    """What both softmaxes of the logits divide by: with images as rows, and with texts as rows."""
    images, texts = _log_sum_exps(batch, scale, block=block)
    of_all = collectives.all_gather(tf.stack([images, texts], axis=1))  # [b, 2]
    return Normalisers(images, of_all[:, 1]), Normalisers(texts, of_all[:, 0])


@tf.function(jit_compile=True, autograph=False)
def _log_sum_exps(batch: PairBatch, scale: tf.Tensor, *, block: int) -> tuple[tf.Tensor, tf.Tensor]:
    """log Σ_j exp z_ij of this replica's images and log Σ_i exp z_ij of its texts, [n] each."""

    def of_rows(side: PairBatch) -> tf.Tensor:
        def tile(_, z: tf.Tensor, rows: tf.Tensor) -> tuple[tuple, tf.Tensor]:
            logits = scale * tf.matmul(z, side.all_ztxt, transpose_b=True)
            return (), tf.reduce_logsumexp(side.without_ignored(logits, rows), axis=1)

        return _over_tiles(tile, side, (), block)[1]

    return of_rows(batch), of_rows(batch.turned)


def pair_gradients(
    batch: PairBatch, scale: tf.Tensor, weights: tuple[Callable, Callable], block: int
) -> tuple[tf.Tensor, PairGradients]:
    """Loss and gradient from `weights`, one function for rows of images and one for rows of texts.

    weights(similarity [k, b], rows [k]) -> (tile of G [k, b], its part of the loss, its sum).
    """
    alone = batch.rows == batch.total

    def tile(weigh: Callable, side: PairBatch, turned_too: bool) -> Callable:
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
    return sums[0], PairGradients(scale * dzimg, scale * dztxt, dscale, sums[1])


def _over_tiles(
    tile: Callable, batch: PairBatch, sums: tuple[tf.Tensor, ...], block: int
) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
    """`tile(sums, z [k, d], global rows [k]) -> (sums, result [k, ...])` over all of batch.zimg."""
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
            lambda k, *_: k < n_full, body, (1, array, *sums), parallel_iterations=1
        )
        results.append(tf.reshape(array.stack(), [(n_full - 1) * block, *first.shape[1:]]))
    if rest:
        sums, last = at(n_full * block, rest, tuple(sums))
        results.append(last)
    return tuple(sums), tf.concat(results, axis=0)
