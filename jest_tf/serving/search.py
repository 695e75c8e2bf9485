"""Exact nearest-neighbour search over unit embeddings, in the TensorFlow graph, block by block."""

import functools

import numpy as np
import tensorflow as tf

# 32,768 rows of 768 float32 are 100 MB: a copy per block is cheap, and few blocks are few kernels.
BLOCK_ROWS = 32_768


class ExactSearch:
    """Finds the rows of float32 [n, d] with the highest dot product, all of them compared.

    A memory map is read once, block by block. Blocks of equal shape (the last one padded) lie on
    the device: a query against any number of rows is one traced program with [q, block_rows]
    scores.
    """

    def __init__(self, embeddings: np.ndarray, block_rows: int = BLOCK_ROWS):
        self.n, self.d = embeddings.shape
        block_rows = max(1, min(block_rows, self.n))
        self._blocks = []
        for start in range(0, self.n, block_rows):
            block = np.zeros((block_rows, self.d), np.float32)
            rows = embeddings[start : start + block_rows]
            block[: len(rows)] = rows
            self._blocks.append((start, len(rows), tf.constant(block)))

    def __call__(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores float32 [q, k] in falling order, rows int64 [q, k]) of queries float32 [q, d].

        Of equal scores the lower row comes first; fewer than k if there are fewer rows.
        """
        queries = tf.constant(np.asarray(queries, np.float32))
        scores, rows = self._search(min(k, self.n))(queries)
        return scores.numpy(), rows.numpy()

    @functools.cache  # noqa: B019 - one program per k, as long-lived as the index
    def _search(self, k: int):
        @tf.function(input_signature=[tf.TensorSpec([None, self.d], tf.float32)])
        def search(queries):
            n_queries = tf.shape(queries)[0]
            best = tf.fill([n_queries, k], tf.float32.min)
            rows = tf.zeros([n_queries, k], tf.int64)
            for start, n_rows, block in self._blocks:
                scores = tf.matmul(queries, block, transpose_b=True)  # [q, block_rows]
                if n_rows < block.shape[0]:
                    scores = tf.where(tf.range(block.shape[0]) < n_rows, scores, tf.float32.min)
                block_best, block_rows = tf.math.top_k(scores, min(k, block.shape[0]))
                # Earlier blocks first: top_k then prefers the lower row among equals.
                best = tf.concat([best, block_best], axis=1)
                rows = tf.concat([rows, tf.cast(block_rows, tf.int64) + start], axis=1)
                best, order = tf.math.top_k(best, k)
                rows = tf.gather(rows, order, batch_dims=1)
            return best, rows

        return search
