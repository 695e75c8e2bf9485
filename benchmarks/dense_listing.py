"""The paper's listing from whole B x B matrices, written to be fast.

What `jest_tf.selection` is measured against. Same framework, compiled by XLA, same draws. What does
not change from chunk to chunk is computed once, and a masked sum over B x B is a matrix-vector
product.
"""

import tensorflow as tf

from jest_tf.selection import Embeddings, SelectionSpec
from jest_tf.selection.draw import gumbel


@tf.function(jit_compile=True)
def dense_listing(
    spec: SelectionSpec, learner: Embeddings, reference: Embeddings, seed: tf.Tensor
) -> tf.Tensor:
    """Positions int32 [b] by learnability, on one device, from dense matrices."""
    z = [_similarities(model) for model in (learner, reference)]  # [B, B] each
    if spec.loss == "sigmoid":
        first, logits = _sigmoid(*z)
    else:
        first, logits = _softmax(*z)

    def draw(chunk, sampled, chunk_logits):
        noise = gumbel(seed, chunk, 0, spec.super_batch)
        _, picked = tf.math.top_k(chunk_logits + noise - 1e8 * sampled, spec.chunk_size)
        return picked, tf.tensor_scatter_nd_update(
            sampled, picked[:, None], tf.ones([spec.chunk_size])
        )

    picked, sampled = draw(0, tf.zeros([spec.super_batch]), first)
    positions = tf.TensorArray(tf.int32, spec.n_chunks, element_shape=picked.shape)
    positions = positions.write(0, picked)
    for chunk in tf.range(1, spec.n_chunks):
        picked, sampled = draw(chunk, sampled, logits(sampled))
        positions = positions.write(chunk, picked)
    return tf.reshape(positions.stack(), [-1])


def _similarities(model):
    return model.scale * tf.matmul(model.zimg, model.ztxt, transpose_b=True) + model.bias


def _sigmoid(z_learner, z_reference):
    """(S_ii, sampled [B] -> g [B])."""

    def nll(z):
        return tf.math.softplus((1.0 - 2.0 * tf.eye(z.shape[0])) * z)

    s = nll(z_learner) - nll(z_reference)
    own = tf.linalg.diag_part(s)

    def logits(sampled):
        return own + _times(s, sampled) + _times(s, sampled, transpose=True)

    return own, logits


def _softmax(z_learner, z_reference):
    """(l_ii, sampled [B] -> l [B]).

    exp(z) is taken once, relative to the largest z: exact as long as scale and bias keep all z
    within float32's range of exponents, 87, of each other.
    """
    models = []
    for sign, z in ((1.0, z_learner), (-1.0, z_reference)):
        peak = tf.reduce_max(z)
        models.append((sign, tf.linalg.diag_part(z), peak, tf.exp(z - peak)))

    def logits(sampled):
        total = 0.0
        for sign, own, peak, e in models:
            itself = (1.0 - sampled) * tf.exp(own - peak)  # P and the candidate, once
            row = tf.math.log(_times(e, sampled) + itself)
            column = tf.math.log(_times(e, sampled, transpose=True) + itself)
            total += sign * (peak + 0.5 * (row + column) - own)
        return total

    return sum(-sign * own for sign, own, _, _ in models), logits


def _times(matrix, vector, transpose=False):
    return tf.linalg.matvec(matrix, vector, transpose_a=transpose)
