"""Who is drawn: the m largest perturbed logits over all replicas, the same answer on each.

Adding a standard Gumbel variable to each logit and keeping the m largest is exactly drawing m
without replacement, one after another, with probability proportional to exp(logit). The variables
are a function of (seed, chunk, global position) and of nothing else.
"""

import dataclasses
import functools
from typing import NamedTuple

import tensorflow as tf

from jest_tf.collectives import Collectives
from jest_tf.selection.spec import SelectionSpec

_PHILOX = 1
_PHILOX_LANES = 4  # One step of the Philox counter gives four 32-bit words.


def gumbel(seed: tf.Tensor, chunk: tf.Tensor | int, start: tf.Tensor | int, n: int) -> tf.Tensor:
    """Standard Gumbel variables float32 [n] for global positions start … start + n - 1.

    Each depends on (seed int32 [2], chunk, position) alone, not on how rows are shared.
    """
    # Small u are fine-grained: these are the large Gumbels, the ones that decide.
    return -tf.math.log(-tf.math.log1p(-uniform(seed, chunk, start, n)))


def uniform(seed: tf.Tensor, stream: tf.Tensor | int, start: tf.Tensor | int, n: int) -> tf.Tensor:
    """Uniform numbers in (0, 1), float32 [n]; as `gumbel`, whose chunks are streams from 0 on."""
    start = tf.cast(start, tf.int64)
    # Raw bits, because float draws for one seed differ between XLA and plain kernels.
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    offset = tf.stack([tf.cast(x, tf.uint64) for x in (start // _PHILOX_LANES, stream)])
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[n + _PHILOX_LANES], key=key, counter=counter + offset, alg=_PHILOX, dtype=tf.uint32
    )
    bits = tf.slice(bits, [start % _PHILOX_LANES], [n])
    # 32-bit integers to float keep 24 leading bits. Never 0 or 1, so every logarithm is finite.
    return tf.minimum((tf.cast(bits, tf.float32) + 0.5) * 2.0**-32, 1 - 2.0**-24)


# Perturbed logits are kept inside ±OPEN, so a row that cannot be picked sorts below every open one
# and a row already taken below that: positions stay distinct even when open rows run out.
OPEN, CLOSED, TAKEN = 1e38, -2e38, -3e38

# Compiled also among replicas: XLA's logarithm and TensorFlow's differ in the last bit.
compiled = functools.partial(tf.function, jit_compile=True, autograph=False)


class Noise(NamedTuple):
    """The Gumbels: of seed int32 [2], (run seed, step), or explicit ones, float32 [n_chunks, B]."""

    seed: tf.Tensor
    gumbel: tf.Tensor | None


@dataclasses.dataclass(frozen=True)
class Draw:
    """The static part of a draw of `count` rows over all replicas.

    offered: rows that a replica puts forward. merged: whether the best of all offers are taken, or
    all of them. temperature: divides the logits; None draws without noise.
    """

    count: int
    offered: int
    merged: bool
    temperature: float | None

    @classmethod
    def of(cls, spec: SelectionSpec, count: int, n: int, size: int) -> "Draw":
        """For `size` replicas of n rows."""
        shared = spec.scope == "replica"
        greedy = spec.greedy or spec.policy == "independent_top_k"
        return cls(
            count=count,
            offered=count // size if shared else min(count, n),
            merged=size > 1 and not shared,
            temperature=None if greedy else spec.temperature,
        )


def draw_once(
    spec: SelectionSpec,
    logits: tf.Tensor,
    usable: tf.Tensor,
    noise: Noise,
    collectives: Collectives,
) -> tf.Tensor:
    """Global positions of one draw of all `sub_batch` rows, int32 [b]; logits and usable: [n]."""
    n = usable.shape[0]
    how = Draw.of(spec, spec.sub_batch, n, collectives.size)
    nobody = tf.zeros([n], tf.bool)
    pairs = offer(how, logits, usable, nobody, noise, tf.constant(0), collectives.rank * n)
    return settle(how, collectives.all_gather(pairs))


@compiled
def offer(
    draw: Draw,
    logits: tf.Tensor,
    usable: tf.Tensor,
    taken: tf.Tensor,
    noise: Noise,
    chunk: tf.Tensor,
    start: tf.Tensor | int,
) -> tf.Tensor:
    """This replica's best rows, best first: int32 [offered, 2], bits of the logit and global
    position.

    All that travels for a draw. logits, usable and taken: [n], own rows.
    """
    perturbed = mask(_perturbed(draw, logits, noise, chunk, start), usable, taken)
    value, index = tf.math.top_k(perturbed, draw.offered)
    return tf.stack([tf.bitcast(value, tf.int32), index + start], axis=1)


@compiled
def settle(draw: Draw, pairs: tf.Tensor) -> tf.Tensor:
    """Global positions drawn, int32 [count], from offers in rank order; ties: the lower one."""
    if not draw.merged:
        return pairs[:, 1]
    # Rows come in rank order, so the lower index among equal values is the lower position.
    _, index = tf.math.top_k(tf.bitcast(pairs[:, 0], tf.float32), draw.count)
    return tf.gather(pairs[:, 1], index)


def _perturbed(draw, logits, noise, chunk, start):
    if draw.temperature is None:
        return logits
    n = logits.shape[0]
    if noise.gumbel is None:
        gumbels = gumbel(noise.seed, chunk, start, n)
    else:
        gumbels = tf.slice(tf.gather(noise.gumbel, chunk), [start], [n])
    return logits / draw.temperature + gumbels


def mask(perturbed: tf.Tensor, usable: tf.Tensor, taken: tf.Tensor) -> tf.Tensor:
    """Sorts unusable rows below all usable ones, and taken rows last. All [n]."""
    open_value = tf.clip_by_value(perturbed, -OPEN, OPEN)
    open_value = tf.where(tf.math.is_nan(perturbed), -OPEN, open_value)
    return tf.where(taken, TAKEN, tf.where(usable, open_value, CLOSED))


def local_index(
    positions: tf.Tensor, start: tf.Tensor | int, n: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """(index into this replica's rows, owned) of global positions; index is n where not owned."""
    index = positions - start
    owned = (index >= 0) & (index < n)
    return tf.where(owned, index, n), owned


@compiled
def mark(taken: tf.Tensor, positions: tf.Tensor, start: tf.Tensor | int) -> tf.Tensor:
    """`taken` with this replica's rows among `positions` set. [n] bool."""
    n = taken.shape[0]
    index, _ = local_index(positions, start, n)
    spare = tf.concat([taken, [False]], axis=0)  # Slot n takes the rows of other replicas.
    return tf.tensor_scatter_nd_update(spare, index[:, None], tf.ones_like(positions, tf.bool))[:n]


@compiled
def sum_over(values: tf.Tensor, positions: tf.Tensor, start: tf.Tensor | int) -> tf.Tensor:
    """Σ of `values` [n] over those of `positions` that this replica owns, []."""
    n = values.shape[0]
    index, owned = local_index(positions, start, n)
    return tf.reduce_sum(tf.where(owned, tf.gather(values, tf.minimum(index, n - 1)), 0.0))
