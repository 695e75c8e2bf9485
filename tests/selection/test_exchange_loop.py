"""The form of the exchange that a TPU program takes: rounds in a graph loop, as many as needed."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from jest_tf.selection import gather_picked


class ThreadCollectives:
    """Replicas as threads that run eagerly; counts the exchanges."""

    in_loops = True

    def __init__(self, rank, size, table, barrier):
        self.rank, self.size, self._table, self._barrier = rank, size, table, barrier
        self.exchanges = 0

    def _all(self, x):
        self.exchanges += 1
        self._table[self.rank] = x
        self._barrier.wait()
        everyone = [self._table[r] for r in range(self.size)]
        self._barrier.wait()
        return everyone

    def all_gather(self, x):
        return tf.concat(self._all(x), axis=0)

    def all_reduce_sum(self, x):
        return tf.add_n(self._all(x))


@pytest.mark.parametrize("positions, n_travel", [
    (np.arange(16)[::-1], 12),  # All on the first replica: twelve of sixteen must move.
    (np.arange(0, 64, 4), 0),  # Even: nothing moves, so nothing is exchanged.
])  # fmt: skip
def test_rounds_follow_the_surplus(positions, n_travel):
    size, n, buffer_rows = 4, 16, 5
    images = np.random.default_rng(0).integers(0, 256, (size * n, 3, 3), np.uint8)
    table, barrier = {}, threading.Barrier(size)
    replicas = [ThreadCollectives(r, size, table, barrier) for r in range(size)]

    def replica(collectives):
        own = slice(collectives.rank * n, (collectives.rank + 1) * n)
        nest = {"image": tf.constant(images[own]), "id": tf.range(own.start, own.stop)}
        picked = tf.constant(positions, tf.int32)
        return gather_picked(nest, picked, collectives, buffer_rows)

    with ThreadPoolExecutor(size) as pool:
        shares = list(pool.map(replica, replicas))
    ids = np.concatenate([share["id"] for share in shares])
    assert sorted(ids) == sorted(positions)
    np.testing.assert_array_equal(np.concatenate([s["image"] for s in shares]), images[ids])
    assert {c.exchanges for c in replicas} == {-(-n_travel // buffer_rows)}
