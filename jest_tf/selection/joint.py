"""Joint example selection (paper, listing 1), exact and without the B x B matrix.

P = draw m with logits S_ii
repeat n_chunks - 1 times:
    g_i += Σ_{k in last chunk} (S_ki + S_ik)      one [tile, m] block at a time
    P += draw m of the rest with logits g_i
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from jest_tf.selection import scores
from jest_tf.selection.collectives import Collectives
from jest_tf.selection.draw import compiled, draw, local_index, mark, mask, sum_over
from jest_tf.selection.scores import Term
from jest_tf.selection.spec import Embeddings, SelectionSpec

MIN_TILE, MAX_TILE = 128, 2048  # Rows per matmul: below is slow, above gains nothing.
MAX_BLOCK = 2**25  # Values per block of similarities, 128 MiB: what bounds the memory.


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
    perturb: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
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

    def draw_chunk(progress: _Progress, chunk: tf.Tensor) -> _Progress:
        logits = _logits(spec.loss, signs, progress.state)
        perturbed = perturb(logits, chunk)
        chosen = draw(mask(perturbed, usable, progress.taken), m, spec.scope, collectives)
        return _Progress(
            progress.state,
            mark(progress.taken, chosen, start),
            tf.tensor_scatter_nd_update(progress.positions, [[chunk]], chosen[None]),
            progress.gain + sum_over(logits, chosen, start),
        )

    def next_chunk(chunk: tf.Tensor, progress: _Progress) -> tuple[tf.Tensor, _Progress]:
        picked = exchange(models, usable, progress.positions[chunk - 1], collectives)
        state = add_chunk(spec.loss, progress.state, models, picked, tile)
        return chunk + 1, draw_chunk(progress._replace(state=state), chunk)

    nothing = _Progress(
        state,
        taken=tf.zeros([n], tf.bool),
        positions=tf.zeros([spec.n_chunks, m], tf.int32),
        gain=tf.constant(0.0),
    )
    progress = _repeat(spec.n_chunks, next_chunk, draw_chunk(nothing, tf.constant(0)), collectives)
    return tf.reshape(progress.positions, [-1]), progress.gain


def tile_rows(super_batch: int, n: int) -> int:
    """Candidates per matmul: the same for 1, 2, 4 and 8 replicas.

    The same shape means the same sums, so a candidate's score does not depend on the layout. Where
    `super_batch` has no suitable divisor, or replicas hold less than a tile, the tile follows n.
    """

    def largest_divisor(number):
        return max(tile for tile in range(1, min(number, MAX_TILE) + 1) if number % tile == 0)

    common = super_batch // math.gcd(super_batch, 8)
    tile = largest_divisor(common)
    if n % tile or tile < min(common, MIN_TILE):
        tile = largest_divisor(n)
    return tile if tile >= min(n, MIN_TILE) else n


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
    """The loss's state [s, n] once a chunk of picked rows, [m, d] each, has joined P.

    Candidates go through in as few passes as MAX_BLOCK allows, each a batch of [tile, m] blocks.
    """
    loss, n = scores.LOSSES[loss], state.shape[1]
    n_passes, per_pass = _passes(n // tile, tile * max(*picked[0].zimg.shape))

    def rows_of(i, side):
        passes = tf.reshape(side, [n_passes, per_pass, tile, side.shape[1]])
        return passes[i]

    def pass_block(i):
        rows = [
            Term(sign, z._replace(zimg=rows_of(i, z.zimg), ztxt=rows_of(i, z.ztxt)))
            for sign, z in models
        ]
        return loss.block(rows, picked)  # [block rows, per_pass, tile]

    if n_passes == 1:  # No loop: its slices would copy all embeddings for every chunk.
        return loss.add(state, tf.reshape(pass_block(0), [-1, n]))
    shape = [loss.block_rows(models), per_pass, tile]
    blocks = tf.TensorArray(tf.float32, n_passes, element_shape=shape)
    _, blocks = tf.while_loop(
        lambda i, _: i < n_passes,
        lambda i, blocks: (i + 1, blocks.write(i, pass_block(i))),
        (0, blocks),
    )
    return loss.add(state, tf.reshape(tf.transpose(blocks.stack(), [1, 0, 2, 3]), [-1, n]))


def _passes(n_tiles, tile_size):
    """(number of passes, tiles in each): the fewest equal passes within MAX_BLOCK values."""
    n_passes = next(
        k
        for k in range(1, n_tiles + 1)
        if n_tiles % k == 0 and (n_tiles // k * tile_size <= MAX_BLOCK or k == n_tiles)
    )
    return n_passes, n_tiles // n_passes


def _repeat(n_chunks, body, progress, collectives):
    """Chunks 1 … n_chunks - 1."""
    if collectives.in_loops:
        return tf.while_loop(lambda chunk, _: chunk < n_chunks, body, (1, progress))[1]
    for chunk in range(1, n_chunks):  # Off TPU, collectives cannot run inside a graph loop.
        _, progress = body(tf.constant(chunk), progress)
    return progress
