"""Sharing the picked examples so that every replica trains on b / R of them.

A replica keeps its own picks up to b / R; only the surplus of the replicas that were picked more
often travels, through buffers of bounded size. With scope=replica there is no surplus.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from jest_tf.collectives import Collectives
from jest_tf.errors import UserError
from jest_tf.ops.words import from_words, summed_word, to_words
from jest_tf.selection.draw import compiled, local_index

MAX_ROUND_BYTES = 2**30  # of the rounds beyond the first


class Assignment(NamedTuple):
    """Who trains on which pick; the same on every replica."""

    destination: tf.Tensor  # int32 [b], replica of each pick
    slot: tf.Tensor  # int32 [b], its row there
    travels: tf.Tensor  # int32 [b], picks that change replica first, in order
    n_travel: tf.Tensor  # int32 [], how many do


class _Plan(NamedTuple):
    """Of each pick, int32 [b]; travels, n_travel: see `Assignment`."""

    index: tf.Tensor  # this replica's row, if owned
    owned: tf.Tensor  # bool [b]
    slot: tf.Tensor  # its slot here
    travels: tf.Tensor
    n_travel: tf.Tensor

    def travellers(self, first: tf.Tensor, n_rows: int) -> tuple[tf.Tensor, tf.Tensor]:
        """The picks first … first + n_rows - 1 that travel, and whether there are so many."""
        order = first + tf.range(n_rows)
        pick = tf.gather(self.travels, tf.minimum(order, self.travels.shape[0] - 1))
        return pick, order < self.n_travel


@tf.autograph.experimental.do_not_convert
def gather_picked(
    values: Any, positions: tf.Tensor, collectives: Collectives, buffer_rows: int | None = None
) -> Any:
    """This replica's share of the picked examples: `values`, nest of [n, ...] -> [b / R, ...].

    positions: int32 [b], from `select`; over all replicas each appears exactly once. buffer_rows:
    rows that travel at once, the only extra memory; default b / 16, and more in later rounds where
    exchanges cannot be looped over (see `_rounds`).
    """
    leaves = tf.nest.flatten(values)
    n, b = leaves[0].shape[0], positions.shape[0]
    if collectives.size == 1:
        return tf.nest.map_structure(lambda leaf: tf.gather(leaf, positions), values)
    if b % collectives.size:
        raise UserError(f"{b} picked examples cannot be shared by {collectives.size} replicas")

    word = summed_word(collectives.in_loops)
    share = b // collectives.size
    plan, rows = _begin(leaves, positions, collectives.rank * n, collectives.size)

    def exchanged(first: tf.Tensor, n_rows: int, rows: list[tf.Tensor]) -> list[tf.Tensor]:
        # Rounds of a loop are as many as needed. Of the others, those beyond the last traveller
        # neither read nor write.
        buffer = _filled(leaves, plan, first, n_rows, word, collectives.in_loops)
        if collectives.in_loops or getattr(collectives, "pads", False):
            buffer = collectives.all_reduce_sum(buffer)
            return _placed(rows, plan, first, buffer, collectives.in_loops)
        # At least one row, because an empty collective is not defined everywhere.
        n_filled = tf.clip_by_value(plan.n_travel - first, 1, n_rows)
        arrived = collectives.all_reduce_sum(buffer[:n_filled])
        # Not tf.pad, which GPUs have not for these words.
        arrived = tf.concat([arrived, tf.zeros_like(buffer)], axis=0)[:n_rows]
        arrived = tf.ensure_shape(arrived, buffer.shape)
        return _placed(rows, plan, first, arrived, False)

    if collectives.in_loops:
        buffer_rows = buffer_rows or -(-b // 16)
        n_rounds = -(-plan.n_travel // buffer_rows)
        _, rows = tf.while_loop(
            lambda i, _: i < n_rounds,
            lambda i, rows: (i + 1, exchanged(i * buffer_rows, buffer_rows, rows)),
            (0, rows),
        )
    else:
        row_bytes = sum(leaf.dtype.size * leaf.shape[1:].num_elements() for leaf in leaves)
        for first, n_rows in _rounds(b, share, row_bytes, buffer_rows):
            rows = exchanged(tf.constant(first), n_rows, rows)
    return tf.nest.pack_sequence_as(values, _without_spare(rows))


def _rounds(b: int, share: int, row_bytes: int, buffer_rows: int | None) -> Iterator:
    """(first, rows) of rounds that hold every surplus there can be.

    The first holds what random picks need many times over. The rest, which picks from one corner
    of the data may need, comes in few and large rounds, so that a step has few of them.
    """
    first, end = 0, b - share
    rows = buffer_rows or -(-b // 16)
    while first < end:
        rows = min(rows, end - first)
        yield first, rows
        first += rows
        if not buffer_rows:
            rows = max(MAX_ROUND_BYTES // row_bytes, 1)


def assign(positions: tf.Tensor, n: int, size: int) -> Assignment:
    """Keeps each pick at home while its replica has fewer than b / R, and places the others."""
    b = positions.shape[0]
    share = b // size
    home = positions // n  # [b]
    kept = _count_before(home, size) < share
    room = share - tf.minimum(_counts(home, size), share)
    travels = tf.argsort(tf.cast(kept, tf.int32), stable=True)  # Travellers first.
    # The j-th traveller takes the j-th free place, replica by replica.
    free_place = tf.searchsorted(tf.cumsum(room), tf.range(b), side="right")
    free_place = tf.minimum(free_place, size - 1)  # Beyond the last traveller: never read.
    arrival = tf.scatter_nd(travels[:, None], free_place, [b])
    destination = tf.where(kept, home, arrival)
    n_travel = tf.reduce_sum(tf.cast(~kept, tf.int32))
    return Assignment(destination, _count_before(destination, size), travels, n_travel)


def _count_before(group: tf.Tensor, size: int) -> tf.Tensor:
    """How many earlier entries are in the same group, int32 [b]."""
    order = tf.argsort(group, stable=True)
    first = tf.gather(tf.cumsum(_counts(group, size), exclusive=True), tf.gather(group, order))
    return tf.scatter_nd(order[:, None], tf.range(group.shape[0]) - first, [group.shape[0]])


def _counts(group: tf.Tensor, size: int) -> tf.Tensor:
    """Entries in each group, int32 [size]; a bincount, which XLA knows no static shape of."""
    return tf.scatter_nd(group[:, None], tf.ones_like(group), [size])


@compiled
def _begin(leaves, positions, start, size):
    """Who trains on which pick, and the rows [share + 1, ...] of those that stay.

    Rows of other replicas go to slot `share`, which is dropped; slots that wait for a traveller
    read row 0.
    """
    n, b = leaves[0].shape[0], positions.shape[0]
    share, rank = b // size, start // n
    plan = assign(positions, n, size)
    index, owned = local_index(positions, start, n)
    slot = tf.where(plan.destination == rank, plan.slot, share)
    stays = tf.where(owned, slot, share)
    source = tf.scatter_nd(stays[:, None], tf.minimum(index, n - 1), [share + 1])
    # The spare slot sums up unrelated indices.
    source = tf.clip_by_value(source, 0, n - 1)
    plan = _Plan(tf.minimum(index, n - 1), owned, slot, plan.travels, plan.n_travel)
    return plan, [tf.gather(leaf, source) for leaf in leaves]


@compiled
def _without_spare(rows):
    return [row[:-1] for row in rows]


@compiled
def _filled(leaves, plan, first, n_rows, word, is_needed):
    """The travellers from `first` on as words [n_rows, words], 0 where others own them."""

    def fill():
        pick, active = plan.travellers(first, n_rows)
        index = tf.gather(plan.index, pick)
        fills = active & tf.gather(plan.owned, pick)
        words = tf.concat([to_words(tf.gather(leaf, index), word) for leaf in leaves], axis=1)
        return tf.where(fills[:, None], words, 0)

    if is_needed:
        return fill()
    width = sum(to_words(leaf[:1], word).shape[1] for leaf in leaves)
    return tf.cond(plan.n_travel > first, fill, lambda: tf.zeros([n_rows, width], word))


@compiled
def _placed(rows, plan, first, buffer, is_needed):
    """`rows` with the travellers in `buffer` [n_rows, words] that are this replica's."""

    def place():
        pick, active = plan.travellers(first, buffer.shape[0])
        slot = tf.where(active, tf.gather(plan.slot, pick), rows[0].shape[0] - 1)[:, None]
        widths = [to_words(row[:1], buffer.dtype).shape[1] for row in rows]
        return [
            tf.tensor_scatter_nd_update(row, slot, from_words(words, row))
            for row, words in zip(rows, tf.split(buffer, widths, axis=1), strict=True)
        ]

    return place() if is_needed else tf.cond(plan.n_travel > first, place, lambda: rows)
