"""Exact nearest-neighbour search over unit embeddings, in one TensorFlow program."""

import numpy as np
import tensorflow as tf

AT_ONCE = 64  # queries: a million rows then take 256 MB of scores


class ExactSearch:
    """Finds the rows of float32 [n, d] with the highest dot product, all of them compared.

    A memory map is read once; the rows then lie on the device.
    """

    def __init__(self, embeddings: np.ndarray):
        self._rows = tf.constant(embeddings)
        queries = tf.TensorSpec([None, embeddings.shape[1]], tf.float32)
        self._search = tf.function(
            lambda queries, k: tf.math.top_k(tf.matmul(queries, self._rows, transpose_b=True), k),
            input_signature=[queries, tf.TensorSpec([], tf.int32)],
            autograph=False,
        )

    def __call__(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores float32 [q, k] in falling order, rows int32 [q, k]) of queries float32 [q, d].

        Of equal scores the lower row comes first; fewer than k if there are fewer rows.
        """
        queries, k = np.asarray(queries, np.float32), tf.constant(min(k, len(self._rows)))
        starts = range(0, max(len(queries), 1), AT_ONCE)
        found = [self._search(tf.constant(queries[i : i + AT_ONCE]), k) for i in starts]
        scores, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return scores, rows
