"""Pair losses in blocks: how good a candidate is, given what is already picked.

S = NLL_learner - NLL_reference (paper, learnability). It is never built: a loss here turns one
block of similarities, [candidates of a tile, picked of a chunk], into sums per candidate.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.compiler.xla import xla_data_pb2

from jest_tf.ops.captions import IGNORED, same_caption
from jest_tf.selection.spec import Embeddings, SelectionSpec


class Term(NamedTuple):
    """One model's part of S: +NLL (what the learner lacks) or -NLL (what the reference lacks).

    The sign is a weight: the learner's may be another than +1.
    """

    sign: float
    z: Embeddings


def terms(spec: SelectionSpec, learner: Embeddings, reference: Embeddings) -> list[Term]:
    """S as signed NLLs: w·learner - reference, learner alone, or minus the reference alone."""
    return {
        "learnability": [Term(spec.learner_weight, learner), Term(-1.0, reference)],
        "hard_learner": [Term(+1.0, learner)],
        "easy_reference": [Term(-1.0, reference)],
    }[spec.criterion]


def similarity(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Inner products in full float32: [tiles, tile, d], [m, d] -> [tiles, tile, m].

    Each tile is a matmul of its own: libraries choose the order of a sum by a matmul's shape. XLA
    must compile it: a plain matmul rounds to bfloat16 on TPU and to TF32 on GPU.
    """
    columns = tf.broadcast_to(columns, [rows.shape[0], *columns.shape])
    dimensions = xla_data_pb2.DotDimensionNumbers(
        lhs_batch_dimensions=[0],
        rhs_batch_dimensions=[0],
        lhs_contracting_dimensions=[2],
        rhs_contracting_dimensions=[2],
    )
    highest = xla_data_pb2.PrecisionConfig(
        operand_precision=[xla_data_pb2.PrecisionConfig.HIGHEST] * 2
    )
    return xla.dot_general(rows, columns, dimensions, highest)


def diagonal(z: Embeddings) -> tf.Tensor:
    """z_ii = scale·<x_i, y_i> + bias, float32 [n]. Not finite if any entry of row i is not."""
    pair = tf.cast(z.zimg, tf.float32) * tf.cast(z.ztxt, tf.float32)  # [n, d]
    return z.scale * tf.reduce_sum(pair, axis=-1) + z.bias


def cross(z: Embeddings, picked: Embeddings) -> tuple[tf.Tensor, tf.Tensor]:
    """z_ik and z_ki without bias, [tiles, tile, m], of candidates [tiles, tile, d] and picked [m,
    d].

    Where captions are given, pairs that share one are IGNORED, i = k among them.
    """
    zimg, ztxt = tf.cast(z.zimg, tf.float32), tf.cast(z.ztxt, tf.float32)
    z_ik = similarity(zimg, picked.scale * picked.ztxt)
    z_ki = similarity(ztxt, picked.scale * picked.zimg)
    if z.captions is None:
        return z_ik, z_ki
    same = same_caption(z.captions, picked.captions)
    return tf.where(same, IGNORED, z_ik), tf.where(same, IGNORED, z_ki)


def ignores_own(models: Sequence[Term]) -> bool:
    """Whether a block leaves the pair of a row with itself out: its caption is its own."""
    return models[0].z.captions is not None


# Along a row, XLA's CPU compiler turns a fold of halves into vector code and a reduction into
# scalar code; a reduction of the last few is no slower.
def _folded(x: tf.Tensor, fold: Callable, width: int = 8) -> tf.Tensor:
    """`x` [..., m] folded in halves until at most `width` are left, [..., <= width]."""
    while x.shape[-1] > width:
        half, odd = divmod(x.shape[-1], 2)
        folded = fold(x[..., :half], x[..., half : 2 * half])
        x = tf.concat([folded, x[..., 2 * half :]], axis=-1) if odd else folded
    return x


def log_sum_exp(z: tf.Tensor) -> tf.Tensor:
    """log Σ_k exp(z_k) over the last axis, with one exponential per element."""
    peak = tf.reduce_max(_folded(z, tf.maximum), axis=-1, keepdims=True)
    total = tf.reduce_sum(_folded(tf.exp(z - peak), tf.add), axis=-1)
    return peak[..., 0] + tf.math.log(total)


def sum_softplus(z: tf.Tensor) -> tf.Tensor:
    """Σ_k softplus(z_ik) over the last axis, with one logarithm per 64 elements instead of 64.

    softplus(z) = max(z, 0) + log(1 + x), x = exp(-|z|) <= 1. The product is kept as q = Π(1 + x_k)
    - 1, because easy negatives have x far below float32's epsilon beside 1. 64 factors of at most 2
    cannot overflow.
    """
    positive, q = tf.maximum(z, 0.0), tf.exp(-tf.abs(z))
    for _ in range(6):
        if q.shape[-1] == 1:
            break
        (p_a, p_b), (q_a, q_b) = _halves(positive), _halves(q)
        positive, q = p_a + p_b, q_a + q_b + q_a * q_b
    return tf.reduce_sum(positive + tf.math.log1p(q), axis=-1)


def _halves(x: tf.Tensor) -> list[tf.Tensor]:
    if x.shape[-1] % 2:  # 0 adds nothing, to a sum or as the factor 1 + 0.
        x = tf.concat([x, tf.zeros_like(x[..., :1])], axis=-1)
    return tf.split(x, 2, axis=-1)


class SigmoidLoss:
    """SigLIP: S decomposes over pairs, so the state is g itself, [1, n].

    nll_ii = softplus(-z_ii), nll_ij = softplus(z_ij); g_i = S_ii + Σ_{k in P} (S_ki + S_ik).
    """

    @staticmethod
    def block_rows(models: Sequence[Term]) -> int:
        """Leading dimension of `block`."""
        del models
        return 1

    @staticmethod
    def start(models: Sequence[Term]) -> tf.Tensor:
        """S_ii: nothing is picked yet."""
        return sum(sign * tf.math.softplus(-diagonal(z)) for sign, z in models)[None]

    @staticmethod
    def block(models: Sequence[Term], picked: Sequence[Embeddings]) -> tf.Tensor:
        """Σ_{k in chunk} (S_ki + S_ik) of each candidate, [1, tiles, rows]."""
        gain = 0.0
        for (sign, z), p in zip(models, picked, strict=True):
            z_ik, z_ki = cross(z, p)
            gain += sign * (sum_softplus(z_ik + p.bias) + sum_softplus(z_ki + p.bias))
        return gain[None]

    @staticmethod
    def add(state: tf.Tensor, block: tf.Tensor) -> tf.Tensor:
        """P grows by a chunk: g_i += Σ_{k in chunk} (S_ki + S_ik)."""
        return state + block

    @staticmethod
    def logits(state: tf.Tensor, signs: Sequence[float]) -> tf.Tensor:
        """g, [n]."""
        del signs
        return state[0]

    @classmethod
    def set_score(cls, state: tf.Tensor, models: Sequence[Term]) -> tf.Tensor:
        """Each member's part of ℓ(Q), [n], once P is Q and all rows are members.

        The block counted each pair in both members. Without captions it also counted k = i as a
        negative, twice; nll_ii = softplus(z_ii) - z_ii turns that into the positive.
        """
        s_ii = cls.start(models)[0]
        pairs = 0.5 * (state[0] - s_ii)
        if ignores_own(models):
            return pairs + s_ii
        return pairs - sum(sign * diagonal(z) for sign, z in models)


class SoftmaxLoss:
    """CLIP: the state is z_ii, LSE_{j in P} z_ij, LSE_{j in P} z_ji of each model, [3·models, n].

    l_i = -z_ii while P is empty, then -z_ii + ½[LSE_{j in P+i} z_ij + LSE_{j in P+i} z_ji].
    A candidate joins its own LSE only when logits are read, so a picked row counts itself once.
    """

    EMPTY = -3e38  # The LSE of nothing; finite, so that exp(EMPTY - z) is 0 and never NaN.

    @staticmethod
    def block_rows(models: Sequence[Term]) -> int:
        """Leading dimension of `block`."""
        return 2 * len(models)

    @classmethod
    def start(cls, models: Sequence[Term]) -> tf.Tensor:
        """z_ii and empty sums."""
        z_ii = tf.stack([diagonal(z) for _, z in models])  # [models, n]
        empty = tf.fill(tf.shape(z_ii), cls.EMPTY)
        return tf.concat([z_ii, empty, empty], axis=0)

    @staticmethod
    def block(models: Sequence[Term], picked: Sequence[Embeddings]) -> tf.Tensor:
        """LSE over the chunk in both directions, [2·models, tiles, rows]."""
        rows, columns = [], []
        for (_, z), p in zip(models, picked, strict=True):
            z_ik, z_ki = cross(z, p)
            rows.append(log_sum_exp(z_ik) + p.bias)
            columns.append(log_sum_exp(z_ki) + p.bias)
        return tf.stack(rows + columns)

    @staticmethod
    def add(state: tf.Tensor, block: tf.Tensor) -> tf.Tensor:
        """P grows by a chunk: LSE_{P + chunk} = logaddexp(LSE_P, LSE_chunk)."""
        models = state.shape[0] // 3
        return tf.concat([state[:models], _logaddexp(state[models:], block)], axis=0)

    @classmethod
    def logits(cls, state: tf.Tensor, signs: Sequence[float]) -> tf.Tensor:
        """l_learner - l_reference, [n]."""
        z_ii, row, column = tf.split(state, 3)  # [models, n]
        lse = 0.5 * (_logaddexp(row, z_ii) + _logaddexp(column, z_ii))
        nll = tf.where(row == cls.EMPTY, 0.0, lse) - z_ii
        return tf.reduce_sum(tf.constant(signs)[:, None] * nll, axis=0)

    @classmethod
    def set_score(cls, state: tf.Tensor, models: Sequence[Term]) -> tf.Tensor:
        """Each member's part of ℓ(Q), [n]; without captions its own pair is in the sums."""
        if ignores_own(models):
            return cls.logits(state, [sign for sign, _ in models])
        z_ii, row, column = tf.split(state, 3)
        signs = tf.constant([sign for sign, _ in models])[:, None]
        return tf.reduce_sum(signs * (0.5 * (row + column) - z_ii), axis=0)


def _logaddexp(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.maximum(a, b) + tf.math.log1p(tf.exp(-tf.abs(a - b)))


LOSSES = {"sigmoid": SigmoidLoss, "softmax": SoftmaxLoss}
