"""Joint example selection (paper, listing 1), exact and without the B x B matrix.

P = draw m with logits S_ii
repeat n_chunks - 1 times:
    g_i += Σ_{k in last chunk} (S_ki + S_ik)      one [tile, m] block at a time
    P += draw m of the rest with logits g_i
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from jest_tf.collectives import TILE_VALUES, Collectives, room_of
from jest_tf.selection import scores
from jest_tf.selection.draw import Draw, Noise, compiled, local_index, mark, offer, settle, sum_over
from jest_tf.selection.scores import Term
from jest_tf.selection.spec import Embeddings, SelectionSpec

MIN_TILE, MAX_TILE = 128, 2048  # Rows per matmul: below is slow, above gains nothing.
MAX_MEMBERS = 1024  # Of the chosen, whose embeddings are copied at a time for ℓ(Q).


class _Picks(NamedTuple):
    taken: tf.Tensor  # [n] bool
    positions: tf.Tensor  # [n_chunks, m] int32
    rows: tf.Tensor  # [m, Σ 2d], embeddings of the last chunk's picks that this replica owns
    gain: tf.Tensor  # [], Σ of this replica's picked logits, each as it was when picked


class Outcome(NamedTuple):
    """positions: int32 [b]. gain, set_score: float32 [], this replica's part of the two sums, of
    the logits at which rows were picked and of b·ℓ(Q) of the picked set Q."""

    positions: tf.Tensor
    gain: tf.Tensor
    set_score: tf.Tensor


def joint(
    spec: SelectionSpec,
    models: Sequence[Term],
    state: tf.Tensor,
    usable: tf.Tensor,
    noise: Noise,
    collectives: Collectives,
) -> Outcome:
    """Draws `sub_batch` examples chunk by chunk.

    Among replicas a chunk is two compiled programs with an exchange after each. models: signed,
    those that make up S. state: [s, n], the loss's while nothing is picked. usable: bool [n], valid
    and finite rows.
    """
    n = usable.shape[0]
    start = collectives.rank * n
    sizes = tile_rows(spec.super_batch, n), room_of(collectives)
    spread = getattr(collectives, "spread", None)
    draw = Draw.of(spec, spec.chunk_size, n, collectives.size)

    def first_chunk() -> tuple[tf.Tensor, _Picks]:
        nobody = tf.zeros([n], tf.bool)
        noisy = (usable, nobody, noise, tf.constant(0), start)
        logits, pairs = _offer(spec.loss, models, draw, spread, state, *noisy)
        picks = _Picks(
            nobody,
            positions=tf.zeros([spec.n_chunks, spec.chunk_size], tf.int32),
            rows=None,
            gain=tf.constant(0.0),
        )
        return state, take(picks, logits, pairs, tf.constant(0))

    def next_chunk(chunk: tf.Tensor, carried: tuple) -> tuple[tf.Tensor, tuple]:
        state, picks = carried
        rows = collectives.all_reduce_sum(picks.rows)
        noisy = (usable, picks.taken, noise, chunk, start)
        state, logits, pairs = _grow_and_offer(
            spec.loss, models, draw, spread, state, rows, sizes, *noisy
        )
        return chunk + 1, (state, take(picks, logits, pairs, chunk))

    def take(picks: _Picks, logits: tf.Tensor, pairs: tf.Tensor, chunk: tf.Tensor) -> _Picks:
        embeddings = [z for _, z in models]
        exchange = collectives.all_reduce_sum if spread else collectives.all_gather
        pairs = exchange(pairs)
        return _take(draw, spread, embeddings, usable, picks, logits, pairs, chunk, start)

    state, picks = _repeat(spec.n_chunks, next_chunk, first_chunk(), collectives)
    rows = collectives.all_reduce_sum(picks.rows)
    positions = tf.reshape(picks.positions, [-1])
    members = (usable, picks.taken)
    set_score = score_of_set(spec.loss, models, state, *members, positions, rows, start)
    return Outcome(positions, picks.gain, set_score)


@compiled
def _offer(loss, models, draw, spread, state, usable, taken, noise, chunk, start):
    """Logits of the own rows, and the best of them, ready to travel."""
    logits = scores.LOSSES[loss].logits(state, [sign for sign, _ in models])
    pairs = offer(draw, logits, usable, taken, noise, chunk, start)
    return logits, spread.of(pairs) if spread else pairs


@compiled
def _grow_and_offer(
    loss, models, draw, spread, state, rows, sizes, usable, taken, noise, chunk, start
):
    """P grows by the last chunk, whose embeddings `rows` are; then as `_offer`."""
    state = add_chunk(loss, state, models, unpacked(models, rows), *sizes)
    return state, *_offer(loss, models, draw, spread, state, usable, taken, noise, chunk, start)


@compiled
def _take(draw, spread, embeddings, usable, picks, logits, pairs, chunk, start):
    """The chunk is drawn from all replicas' offers."""
    if spread:
        pairs = spread.joined(pairs, tf.int32, (draw.offered, 2))
    chosen = settle(draw, pairs)
    return _Picks(
        mark(picks.taken, chosen, start),
        tf.tensor_scatter_nd_update(picks.positions, [[chunk]], chosen[None]),
        own_rows(embeddings, usable, chosen, start),
        picks.gain + sum_over(logits, chosen, start),
    )


@compiled
def score_of_set(loss, models, state, usable, taken, positions, rows, start):
    """Σ over the own members [n] of Q of their part of ℓ(Q), once the last chunk has joined P."""
    members = usable & taken
    n, b = members.shape[0], positions.shape[0]
    picked = unpacked(models, rows)

    def score(models, state, members):
        k = members.shape[0]
        state = add_chunk(loss, state, models, picked, tile_rows(k, k))
        return tf.reduce_sum(tf.where(members, scores.LOSSES[loss].set_score(state, models), 0.0))

    if n <= b:
        return score(models, state, members)
    k = _largest_divisor(b, MAX_MEMBERS)
    if k < MIN_TILE:
        k = b  # As in `tile_rows`: rather all than ever so few.
    index, owned = local_index(positions, start, n)
    index = tf.reshape(tf.minimum(index, n - 1), [-1, k])
    owned = tf.reshape(owned, [-1, k])

    def score_of(i):
        at = index[i]
        chosen = [Term(sign, z.map_rows(lambda side: tf.gather(side, at))) for sign, z in models]
        return score(chosen, tf.gather(state, at, axis=1), owned[i] & tf.gather(members, at))

    if k == b:
        return score_of(0)
    more = (lambda i, _: i < b // k, lambda i, total: (i + 1, total + score_of(i)))
    return tf.while_loop(*more, (0, tf.constant(0.0)))[1]


def tile_rows(super_batch: int, n: int) -> int:
    """Candidates per matmul: the same for 1, 2, 4 and 8 replicas, so that sums have one order.

    Where `super_batch` has no suitable divisor, or replicas hold less than a tile, the tile follows
    n; layouts then differ by rounding and may select differently in near-ties.
    """
    common = super_batch // math.gcd(super_batch, 8)
    tile = _largest_divisor(common, MAX_TILE)
    if n % tile or tile < min(common, MIN_TILE):
        tile = _largest_divisor(n, MAX_TILE)
    return tile if tile >= min(n, MIN_TILE) else n


def _largest_divisor(number: int, bound: int) -> int:
    return max(size for size in range(1, min(number, bound) + 1) if number % size == 0)


def exchange(
    models: Sequence[Term], usable: tf.Tensor, positions: tf.Tensor, collectives: Collectives
) -> list[Embeddings]:
    """Embeddings of the picked rows on every replica: each owner fills its rows, then a sum.

    [m, Σ 2d] float32 per chunk (and two columns a model of caption hashes) travel.
    """
    start = collectives.rank * usable.shape[0]
    rows = own_rows([z for _, z in models], usable, positions, start)
    rows = collectives.all_reduce_sum(rows)
    return unpacked(models, rows)


@compiled
def own_rows(
    models: Sequence[Embeddings], usable: tf.Tensor, positions: tf.Tensor, start: tf.Tensor | int
) -> tf.Tensor:
    """All models' embeddings at `positions` side by side, [m, Σ 2d]; 0 where another owns them."""
    n = usable.shape[0]
    index, owned = local_index(positions, start, n)
    index = tf.minimum(index, n - 1)
    # A row that is not usable may hold NaN; as zeros it cannot poison the others' sums.
    keep = owned & tf.gather(usable, index)
    rows = [tf.gather(side, index) for z in models for side in z.per_row]
    rows = tf.concat([tf.cast(row, tf.float32) for row in rows], axis=1)
    return tf.where(keep[:, None], rows, 0.0)


def unpacked(models: Sequence[Term], rows: tf.Tensor) -> list[Embeddings]:
    """The models' embeddings in [m, Σ 2d]."""
    sides = iter(tf.split(rows, [x.shape[1] for _, z in models for x in z.per_row], axis=1))
    return [z.with_rows([next(sides) for _ in z.per_row]) for _, z in models]


@compiled
def add_chunk(
    loss: str,
    state: tf.Tensor,
    models: Sequence[Term],
    picked: Sequence[Embeddings],
    tile: int,
    room: int = TILE_VALUES,
) -> tf.Tensor:
    """The loss's state [s, n] once a chunk of picked rows, [m, d] each, has joined P.

    Candidates go through in as few passes as the memory allows, each a batch of [tile, m] blocks.
    room: similarities that may exist at a time. It changes no block, and so the order of no sum.
    """
    loss, n = scores.LOSSES[loss], state.shape[1]
    n_passes, per_pass = _passes(n // tile, tile, *picked[0].zimg.shape, room)

    def rows_of(i, side):
        passes = tf.reshape(side, [n_passes, per_pass, tile, side.shape[1]])
        return passes[i]

    def pass_block(i):
        rows = [Term(sign, z.map_rows(lambda side: rows_of(i, side))) for sign, z in models]
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


def _passes(n_tiles, tile, m, d, room):
    """(number of passes, tiles in each): one within `room` values, or the fewest equal passes
    within half of that, for the slices of the embeddings stand beside the block."""
    if n_tiles == 1 or n_tiles * tile * m <= room:
        return 1, n_tiles
    n_passes = next(
        k
        for k in range(2, n_tiles + 1)
        if n_tiles % k == 0 and (n_tiles // k * tile * max(m, d) <= room // 2 or k == n_tiles)
    )
    return n_passes, n_tiles // n_passes


def _repeat(n_chunks, body, carried, collectives):
    """Chunks 1 … n_chunks - 1."""
    if collectives.in_loops:
        return tf.while_loop(lambda chunk, _: chunk < n_chunks, body, (1, carried))[1]
    for chunk in range(1, n_chunks):  # Off TPU, collectives cannot run inside a graph loop.
        _, carried = body(tf.constant(chunk), carried)
    return carried
