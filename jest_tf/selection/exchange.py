"""Sharing the picked examples so that every replica trains on b / R of them.

A replica keeps its own picks up to b / R; only the surplus of the replicas that were picked more
often travels, through buffers of bounded size. With scope=replica there is no surplus.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from jest_tf.collectives import Collectives
from jest_tf.errors import UserError
from jest_tf.ops.words import from_words, to_words
from jest_tf.selection.draw import local_index


class Assignment(NamedTuple):
    """Who trains on which pick; the same on every replica.

    destination, slot: int32 [b], replica of each pick and its row there. travels: int32 [b], picks
    that change replica first, in order. n_travel: int32 [], how many do.
    """

    destination: tf.Tensor
    slot: tf.Tensor
    travels: tf.Tensor
    n_travel: tf.Tensor


@tf.autograph.experimental.do_not_convert
def gather_picked(
    values: Any, positions: tf.Tensor, collectives: Collectives, buffer_rows: int | None = None
) -> Any:
    """This replica's share of the picked examples: `values`, nest of [n, ...] -> [b / R, ...].

    positions: int32 [b], from `select`; over all replicas each appears exactly once. buffer_rows:
    rows that travel at once, the only extra memory; default b / 16.
    """
    leaves = tf.nest.flatten(values)
    n, b = leaves[0].shape[0], positions.shape[0]
    if collectives.size == 1:
        return tf.nest.map_structure(lambda leaf: tf.gather(leaf, positions), values)
    if b % collectives.size:
        raise UserError(f"{b} picked examples cannot be shared by {collectives.size} replicas")

    share = b // collectives.size
    plan = assign(positions, n, collectives.size)
    rounds = _Rounds(leaves, positions, plan, share, buffer_rows or -(-b // 16), collectives)
    rows = rounds.run(rounds.own_rows())
    return tf.nest.pack_sequence_as(values, [row[:share] for row in rows])


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


class _Rounds:
    """The exchange: in each round up to `buffer_rows` travelling rows, filled by their owners."""

    def __init__(self, leaves, positions, plan, share, buffer_rows, collectives):
        self.leaves, self.plan, self.share, self.collectives = leaves, plan, share, collectives
        self.n = leaves[0].shape[0]
        self.buffer_rows = buffer_rows
        # TPUs, whose loops hold collectives, sum 32 bits at most; GPUs sum 64-bit integers on the
        # device and 32-bit ones on the host.
        self.word = tf.int32 if collectives.in_loops else tf.int64
        self.index, self.owned = local_index(positions, collectives.rank * self.n, self.n)
        # Rows of other replicas go to slot `share`, which is dropped.
        mine = plan.destination == collectives.rank
        self.slot = tf.where(mine, plan.slot, share)

    def own_rows(self) -> list[tf.Tensor]:
        """[share + 1, ...] with the picks that stay; the other slots are filled by `run`."""
        stays = tf.where(self.owned, self.slot, self.share)
        source = tf.scatter_nd(stays[:, None], tf.minimum(self.index, self.n - 1), [self.share + 1])
        # The spare slot sums up unrelated indices; slots still empty read row 0.
        source = tf.clip_by_value(source, 0, self.n - 1)
        return [tf.gather(leaf, source) for leaf in self.leaves]

    def run(self, rows: list[tf.Tensor]) -> list[tf.Tensor]:
        """All rounds. In a graph loop their number follows the surplus; elsewhere their size."""
        b = self.index.shape[0]
        if self.collectives.in_loops:
            n_rounds = -(-self.plan.n_travel // self.buffer_rows)
            _, rows = tf.while_loop(
                lambda i, _: i < n_rounds,
                lambda i, rows: (i + 1, self._round(i * self.buffer_rows, self.buffer_rows, rows)),
                (0, rows),
            )
            return rows
        for first in range(0, b - self.share, self.buffer_rows):
            # At least one row, because an empty collective is not defined everywhere.
            n_rows = tf.clip_by_value(self.plan.n_travel - first, 1, self.buffer_rows)
            rows = self._round(first, n_rows, rows)
        return rows

    def _round(self, first, n_rows, rows):
        order = tf.minimum(first + tf.range(n_rows), self.index.shape[0] - 1)
        pick = tf.gather(self.plan.travels, order)
        active = first + tf.range(n_rows) < self.plan.n_travel
        index = tf.minimum(tf.gather(self.index, pick), self.n - 1)
        fills = active & tf.gather(self.owned, pick)
        words = [to_words(tf.gather(leaf, index), self.word) for leaf in self.leaves]
        buffer = tf.where(fills[:, None], tf.concat(words, axis=1), 0)  # [n_rows, words]
        buffer = self.collectives.all_reduce_sum(buffer)
        slot = tf.where(active, tf.gather(self.slot, pick), self.share)[:, None]
        arrived = tf.split(buffer, [word.shape[1] for word in words], axis=1)
        return [
            tf.tensor_scatter_nd_update(row, slot, from_words(word, row))
            for row, word in zip(rows, arrived, strict=True)
        ]
