"""Who is drawn: the m largest perturbed logits over all replicas, the same answer on each."""

import functools

import tensorflow as tf

from jest_tf.selection.collectives import Collectives

# Perturbed logits are kept inside ±OPEN, so a row that cannot be picked sorts below every open one
# and a row already taken below that: positions stay distinct even when open rows run out.
OPEN, CLOSED, TAKEN = 1e38, -2e38, -3e38

compiled = functools.partial(tf.function, jit_compile=True, autograph=False)


def draw(perturbed: tf.Tensor, count: int, scope: str, collectives: Collectives) -> tf.Tensor:
    """Global positions of the `count` largest values, int32 [count].

    Only (value, position) pairs travel: at most min(count, n) per replica. Equal values go to the
    lower position.

    Args:
      perturbed: float32 [n], this replica's logits plus Gumbels, from `mask`.
      count: how many, over all replicas.
      scope: 'global', or 'replica' for count / R from each.
      collectives: the replicas.
    """
    n = perturbed.shape[0]
    start = collectives.rank * n
    if scope == "replica":
        best = _best(perturbed, start, count // collectives.size)
        return collectives.all_gather(best)[:, 1]
    best = _best(perturbed, start, min(count, n))
    if collectives.size == 1:
        return best[:, 1]
    return _merge(collectives.all_gather(best), count)


@compiled
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


@compiled
def _best(perturbed, start, k):
    value, index = tf.math.top_k(perturbed, k)
    # One exchange instead of two: the float's bits travel beside the position.
    return tf.stack([tf.bitcast(value, tf.int32), index + start], axis=1)  # [k, 2]


@compiled
def _merge(pairs, count):
    # Rows come in rank order, so the lower index among equal values is the lower position.
    _, index = tf.math.top_k(tf.bitcast(pairs[:, 0], tf.float32), count)
    return tf.gather(pairs[:, 1], index)
