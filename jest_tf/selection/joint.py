"""Joint example selection (paper, listing 1), exact and without the B x B matrix.

P = draw m with logits S_ii
repeat n_chunks - 1 times:
    g_i += Σ_{k in last chunk} (S_ki + S_ik)      one [tile, m] block at a time
    P += draw m of the rest with logits g_i
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from jest_tf.selection import scores
from jest_tf.selection.collectives import Collectives
from jest_tf.selection.draw import compiled, draw, local_index, mark, mask, sum_over
from jest_tf.selection.scores import Term
from jest_tf.selection.spec import Embeddings, SelectionSpec

MAX_TILE = 1024


class _Progress(NamedTuple):
    """What one chunk hands to the next."""

    state: tf.Tensor  # [s, n], see scores.py
    taken: tf.Tensor  # [n] bool
    positions: tf.Tensor  # [n_chunks, m] int32
    gain: tf.Tensor  # [], Σ of this replica's picked logits, each as it was when picked


def joint(
    spec: SelectionSpec,
    models: Sequence[Term],
    state: tf.Tensor,
    usable: tf.Tensor,
    perturb: Callable[[tf.Tensor, tf.Tensor | int], tf.Tensor],
    collectives: Collectives,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws `sub_batch` examples chunk by chunk.

    Args:
      spec: sizes, loss, scope.
      models: the signed models that make up S, rows of this replica.
      state: the loss's state while nothing is picked, [s, n].
      usable: bool [n], valid and finite rows.
      perturb: (logits [n], chunk) -> logits after temperature and the chunk's draw.
      collectives: the replicas.

    Returns:
      (global positions int32 [b], this replica's sum of picked logits float32 []).
    """
    signs = tuple(sign for sign, _ in models)
    n, m = usable.shape[0], spec.chunk_size
    start = collectives.rank * n
    tile = tile_rows(spec.super_batch, n)

    def draw_chunk(progress: _Progress, chunk: tf.Tensor | int) -> _Progress:
        logits = _logits(spec.loss, signs, progress.state)
        perturbed = perturb(logits, chunk)
        chosen = draw(mask(perturbed, usable, progress.taken), m, spec.scope, collectives)
        return _Progress(
            progress.state,
            mark(progress.taken, chosen, start),
            tf.tensor_scatter_nd_update(progress.positions, [[chunk]], chosen[None]),
            progress.gain + sum_over(logits, chosen, start),
        )

    def next_chunk(chunk: tf.Tensor | int, progress: _Progress) -> tuple[tf.Tensor, _Progress]:
        picked = exchange(models, usable, progress.positions[chunk - 1], collectives)
        state = add_chunk(spec.loss, progress.state, models, picked, tile)
        return chunk + 1, draw_chunk(progress._replace(state=state), chunk)

    nothing = _Progress(
        state,
        taken=tf.zeros([n], tf.bool),
        positions=tf.zeros([spec.n_chunks, m], tf.int32),
        gain=tf.constant(0.0),
    )
    progress = _repeat(spec.n_chunks, next_chunk, draw_chunk(nothing, 0), collectives)
    return tf.reshape(progress.positions, [-1]), progress.gain


def tile_rows(super_batch: int, n: int) -> int:
    """Candidates per block: a function of super_batch alone while n allows it.

    The same tile on every layout means the same shapes, so the same sums for a candidate whatever
    the number of replicas.
    """
    tile = 8
    while tile < MAX_TILE and 16 * tile <= super_batch:
        tile *= 2
    return min(tile, n)


def exchange(
    models: Sequence[Term], usable: tf.Tensor, positions: tf.Tensor, collectives: Collectives
) -> list[Embeddings]:
    """Embeddings of the picked rows on every replica: each owner fills its rows, then a sum.

    Travels: [m, Σ 2d] float32 per chunk, the only large exchange of the selection.
    """
    start = collectives.rank * usable.shape[0]
    rows = collectives.all_reduce_sum(_own_rows(models, usable, positions, start))
    sides = tf.split(rows, [side.shape[1] for _, z in models for side in z[:2]], axis=1)
    return [
        Embeddings(zimg, ztxt, z.scale, z.bias)
        for (_, z), zimg, ztxt in zip(models, sides[0::2], sides[1::2], strict=True)
    ]


@compiled
def _logits(loss, signs, state):
    return scores.LOSSES[loss].logits(state, signs)


@compiled
def _own_rows(models, usable, positions, start):
    n = usable.shape[0]
    index, owned = local_index(positions, start, n)
    index = tf.minimum(index, n - 1)
    # A row that is not usable may hold NaN; as zeros it cannot poison the others' sums.
    keep = owned & tf.gather(usable, index)
    rows = [tf.gather(side, index) for _, z in models for side in z[:2]]
    rows = tf.concat([tf.cast(row, tf.float32) for row in rows], axis=1)  # [m, Σ 2d]
    return tf.where(keep[:, None], rows, 0.0)


@compiled
def add_chunk(
    loss: str, state: tf.Tensor, models: Sequence[Term], picked: Sequence[Embeddings], tile: int
) -> tf.Tensor:
    """The state once a chunk has joined P; candidates go through in blocks of `tile` rows."""
    n = state.shape[1]
    n_tiles = -(-n // tile)
    add_block = functools.partial(_tile_block, scores.LOSSES[loss], models, picked, tile)

    def body(i, blocks):
        # The last tile starts early instead of being padded: same shape, no copy of the inputs.
        return i + 1, blocks.write(i, add_block(tf.minimum(i * tile, n - tile)))

    blocks = tf.TensorArray(tf.float32, n_tiles, element_shape=[None, tile])
    _, blocks = tf.while_loop(lambda i, _: i < n_tiles, body, (0, blocks))
    blocks = tf.transpose(blocks.stack(), [1, 0, 2])  # [s, n_tiles, tile]
    full = tf.reshape(blocks[:, :-1], [-1, (n_tiles - 1) * tile])
    last = blocks[:, -1, n_tiles * tile - n :]
    return scores.LOSSES[loss].add(state, tf.concat([full, last], axis=1))


def _tile_block(loss, models, picked, tile, start):
    def rows(side):
        return tf.slice(side, [start, 0], [tile, side.shape[1]])

    tiles = [Term(sign, z._replace(zimg=rows(z.zimg), ztxt=rows(z.ztxt))) for sign, z in models]
    return loss.block(tiles, picked)


def _repeat(n_chunks, body, progress, collectives):
    """Chunks 1 … n_chunks - 1."""
    if collectives.in_loops:
        return tf.while_loop(lambda chunk, _: chunk < n_chunks, body, (1, progress))[1]
    for chunk in range(1, n_chunks):  # Off TPU, collectives cannot run inside a graph loop.
        _, progress = body(chunk, progress)
    return progress
