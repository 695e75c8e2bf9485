"""The paper's listing as it stands: the whole B x B matrix, masked and summed once per chunk.

What `jest_tf.selection` is measured against. Same framework, compiled by XLA, same draws.
"""

import tensorflow as tf

from jest_tf.selection import Embeddings, SelectionSpec
from jest_tf.selection.sampling import gumbel


@tf.function(jit_compile=True)
def dense_listing(
    spec: SelectionSpec, learner: Embeddings, reference: Embeddings, seed: tf.Tensor
) -> tf.Tensor:
    """Positions int32 [b] by learnability, on one device, from dense matrices."""
    z = [_similarities(model) for model in (learner, reference)]  # [B, B] each
    if spec.loss == "sigmoid":
        scores = _sigmoid_nll(z[0]) - _sigmoid_nll(z[1])
        first = tf.linalg.diag_part(scores)
    else:
        first = tf.linalg.diag_part(z[1]) - tf.linalg.diag_part(z[0])

    def logits(sampled):
        if spec.loss == "softmax":
            return _softmax_nll(z[0], sampled) - _softmax_nll(z[1], sampled)
        others = tf.reduce_sum(scores * sampled[:, None], axis=0)
        return first + others + tf.reduce_sum(scores * sampled[None, :], axis=1)

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


def _sigmoid_nll(z):
    sign = 1.0 - 2.0 * tf.eye(z.shape[0])
    return tf.math.softplus(sign * z)


def _softmax_nll(z, sampled):
    own = tf.linalg.diag_part(z)
    member = tf.maximum(sampled[None, :], tf.eye(z.shape[0])) > 0  # P and the candidate itself
    rows = tf.reduce_logsumexp(tf.where(member, z, -1e30), axis=1)
    columns = tf.reduce_logsumexp(tf.where(tf.transpose(member), z, -1e30), axis=0)
    return 0.5 * (rows + columns) - own
