"""`select`: one call for every policy, criterion, loss and number of replicas.

`select_by_loss` is for models that are not contrastive. A classifier's or a captioner's loss on an
example does not depend on the batch around it: a set scores the sum of its examples' scores, and
joint selection is independent selection.
"""

import dataclasses
import functools
import warnings
from typing import NamedTuple

import tensorflow as tf

from jest_tf.collectives import LOCAL, Collectives, LocalCollectives, room_of
from jest_tf.errors import UserError
from jest_tf.selection import scores
from jest_tf.selection.draw import Noise, compiled, draw_once, sum_over
from jest_tf.selection.joint import joint
from jest_tf.selection.spec import Embeddings, Selection, SelectionSpec


@tf.autograph.experimental.do_not_convert
def select_by_loss(
    spec: SelectionSpec,
    learner_loss: tf.Tensor | None,
    reference_loss: tf.Tensor | None,
    valid: tf.Tensor,
    seed: tf.Tensor,
    collectives: Collectives = LOCAL,
) -> Selection:
    """Chooses `spec.sub_batch` of the super-batch by a loss per example.

    Policy `joint` becomes `independent_sampled`, with a warning: here both draw from the same
    distribution. `spec.loss` has no meaning.
    learner_loss, reference_loss: float [n], this replica's n = B / R rows; None where the criterion
    does not use it. valid: bool [n]; False rows are picked last. seed: int32 [2], (run seed, step).
    Row i of replica r has global position r·n + i. Returns a Selection as `select`, with
    `pool_score` and `chosen_score`. UserError: sizes do not divide. ValueError: a loss is missing
    or not [n].
    """
    spec.check_replicas(collectives.size)
    if spec.policy == "joint":
        warnings.warn(
            "selection.policy is joint, but a loss per example has no pair terms: joint selection "
            "is independent selection here, and independent_sampled is used.",
            stacklevel=2,
        )
        spec = dataclasses.replace(spec, policy="independent_sampled")
    n = spec.super_batch // collectives.size
    needed = {"learner_loss": learner_loss} if spec.scores_learner else {}
    needed |= {"reference_loss": reference_loss} if spec.scores_reference else {}
    for name, loss in needed.items():
        if loss is None or tf.TensorShape(loss.shape) != (n,):
            found = None if loss is None else tuple(loss.shape)
            raise ValueError(
                f"{name} is {found}; criterion {spec.criterion} needs a tensor of shape ({n},)"
            )
    score = tf.zeros([n])
    for sign, loss in scores.terms(spec, learner_loss, reference_loss) if needed else ():
        score += sign * tf.cast(tf.stop_gradient(loss), tf.float32)
    usable = valid & tf.math.is_finite(score)
    score = tf.where(usable, score, 0.0)
    positions = draw_once(spec, score, usable, Noise(seed, None), collectives)
    candidates = Candidates([], None, score, usable)
    return summed_up(spec, candidates, positions, {}, valid, collectives)


class Candidates(NamedTuple):
    """What a policy chooses from, on this replica.

    models: (sign, Embeddings) that the criterion uses. state [s, n]: see `scores`. s_ii: [n], score
    of each row with itself. usable: bool [n], valid and finite.
    """

    models: list
    state: tf.Tensor | None
    s_ii: tf.Tensor
    usable: tf.Tensor


def _joint(spec, candidates, noise, collectives):
    found = joint(spec, candidates.models, candidates.state, candidates.usable, noise, collectives)
    return found.positions, {"gain": found.gain, "joint_score": found.set_score}


def _independent(spec, candidates, noise, collectives):
    return draw_once(spec, candidates.s_ii, candidates.usable, noise, collectives), {}


# Policy -> its draw: global positions int32 [b], the same on every replica, and sums over this
# replica's picks that become metrics.
DRAWS = {
    "joint": _joint,
    "independent_top_k": _independent,
    "independent_sampled": _independent,
    "uniform": _independent,
}


@tf.autograph.experimental.do_not_convert
def select(
    spec: SelectionSpec,
    learner: Embeddings | None,
    reference: Embeddings | None,
    valid: tf.Tensor,
    seed: tf.Tensor,
    collectives: Collectives = LOCAL,
    gumbel: tf.Tensor | None = None,
) -> Selection:
    """Chooses `spec.sub_batch` of the super-batch.

    On one replica this is one XLA program; among replicas the blocks are compiled and collectives
    run between them. Any number of replicas selects the same rows, except for near-ties: candidates
    at the cut whose perturbed logits differ by less than 64 roundings of the largest
    (docs/selection.md).
    learner, reference: this replica's n = B / R rows, float32 or bfloat16 [n, d]; widths may
    differ; None if the criterion does not use the model, and both for the uniform policy. valid:
    bool [n]; False rows are picked last. seed: int32 [2], (run seed, step). Row i of replica r has
    global position r·n + i. gumbel: float32 [n_chunks, B] instead of the seed's draws (tests); the
    independent policies use row 0.
    Returns a Selection; `n_candidates` below `sub_batch`: refuse the step. metrics: `pool_score`
    and `chosen_score`, mean S_ii of candidates and of the chosen; for policy joint also
    `joint_score`, ℓ(Q), and `gain`, the mean logit at which rows were picked. UserError: sizes do
    not divide by the replicas, a row count is wrong, or a model that the criterion needs is
    missing.
    """
    spec.check_replicas(collectives.size)
    n = spec.super_batch // collectives.size
    _check_rows(spec, n, learner, reference, valid)
    if collectives.size == 1:
        return _program(spec, LocalCollectives(room_of(collectives)))(
            learner, reference, valid, seed, gumbel
        )
    return _select(spec, learner, reference, valid, seed, gumbel, collectives)


@functools.cache
def _program(spec, local):
    """The one-replica selection as one compiled function."""

    @compiled
    def one_replica(learner, reference, valid, seed, gumbel):
        return _select(spec, learner, reference, valid, seed, gumbel, local)

    return one_replica


def _select(spec, learner, reference, valid, seed, gumbel, collectives):
    models = [] if spec.policy == "uniform" else scores.terms(spec, learner, reference)
    candidates = Candidates(models, *pool(spec.loss, models, valid))
    positions, sums = DRAWS[spec.policy](spec, candidates, Noise(seed, gumbel), collectives)

    return summed_up(spec, candidates, positions, sums, valid, collectives)


def summed_up(spec, candidates, positions, sums, valid, collectives) -> Selection:
    """The Selection of what a draw gave (see `DRAWS`): one exchange for all counts and metrics."""
    start = collectives.rank * valid.shape[0]
    names = () if spec.policy == "uniform" else (*sums, "chosen_score", "pool_score")
    s_ii, usable = candidates.s_ii, candidates.usable
    own = _own_sums(s_ii, usable, valid, positions, start, list(sums.values()))
    totals = collectives.all_reduce_sum(own)
    return Selection(positions, *_totals(spec.sub_batch, names, totals))


@compiled
def _own_sums(s_ii, usable, valid, positions, start, sums):
    """What this replica adds to the totals: its candidates, its valid rows, `sums`, two scores.

    Floats hold counts below 2^24 exactly, and GPUs sum them on the device.
    """
    counts = [tf.reduce_sum(tf.cast(flags, tf.float32)) for flags in (usable, valid)]
    scores_of = [sum_over(s_ii, positions, start), tf.reduce_sum(s_ii)]
    return tf.stack([*counts, *sums, *scores_of])


@compiled
def _totals(sub_batch, names, totals):
    """(candidates, metrics by name, valid rows) over all replicas, from the summed `_own_sums`."""
    n_candidates, n_valid = (tf.cast(total, tf.int32) for total in tf.unstack(totals[:2]))
    metrics = dict(zip(names, tf.unstack(totals[2:] / sub_batch), strict=False))
    if metrics:
        metrics["pool_score"] *= sub_batch / tf.maximum(totals[0], 1.0)
    return n_candidates, metrics, n_valid


@compiled
def pool(loss, models, valid):
    """The state before any pick [s, n], S_ii [n] (0 where unusable), usable [n] (valid, finite)."""
    if not models:
        return None, tf.zeros(valid.shape), valid
    state = scores.LOSSES[loss].start(models)
    s_ii = scores.LOSSES[loss].logits(state, [sign for sign, _ in models])
    usable = valid
    for _, z in models:  # NaN and Inf in any entry survive the inner product.
        usable &= tf.math.is_finite(scores.diagonal(z))
    return state, tf.where(usable, s_ii, 0.0), usable


def pair_loss(loss: str, model: Embeddings | None, valid: tf.Tensor) -> tf.Tensor:
    """Each pair's own part of a model's loss, S_ii of that model alone; float32 [n].

    NaN where the pair is not valid or not finite, and everywhere without a model.
    """
    nothing = tf.fill(valid.shape, float("nan"))
    if model is None:
        return nothing
    _, loss_ii, usable = pool(loss, [scores.Term(1.0, model)], valid)
    return tf.where(usable, loss_ii, nothing)


# Rows that a pair is ranked among: enough for two digits, and little beside scoring.
RANKED_AMONG = 256
SAME = 1e-5  # a cosine that exceeds the own one by less is not better: rounding, equal captions


def pair_rank(model: Embeddings | None, valid: tf.Tensor) -> tf.Tensor:
    """Share of other pairs' texts and images that fit a pair better than its own; float32 [n].

    0: its own are the best match in both directions; about 0.5 for a pair put together by chance.
    The others are the first RANKED_AMONG rows of this replica. NaN as in `pair_loss`.
    """
    if model is None:
        return tf.fill(valid.shape, float("nan"))
    return _rank(model, valid)


@compiled
def _rank(model, valid):
    zimg, ztxt = (tf.cast(z, tf.float32) for z in (model.zimg, model.ztxt))
    own = tf.reduce_sum(zimg * ztxt, axis=-1)
    usable = valid & tf.math.is_finite(own)
    k = min(RANKED_AMONG, valid.shape[0])
    is_other = usable[None, :k] & ~tf.eye(valid.shape[0], k, dtype=tf.bool)
    better = [
        tf.matmul(z, others[:k], transpose_b=True) > own[:, None] + SAME
        for z, others in ((zimg, ztxt), (ztxt, zimg))
    ]
    n_better = sum(tf.reduce_sum(tf.cast(b & is_other, tf.float32), axis=1) for b in better)
    n_others = tf.reduce_sum(tf.cast(is_other, tf.float32), axis=1)
    return tf.where(usable, n_better / (2 * tf.maximum(n_others, 1)), float("nan"))


def _check_rows(spec, n, learner, reference, valid):
    needed = {"learner": learner} if spec.scores_learner else {}
    needed |= {"reference": reference} if spec.scores_reference else {}
    for name, z in needed.items():
        if z is None:
            raise UserError(
                f"selection.criterion {spec.criterion} with policy {spec.policy} needs the "
                f"{name}'s embeddings, and got None"
            )
        for side in ("zimg", "ztxt"):
            rows = getattr(z, side).shape[0]
            if rows != n:
                raise UserError(
                    f"{name}.{side} has {rows} rows; super_batch {spec.super_batch} shared by the "
                    f"replicas is {n} each"
                )
    if len({z.captions is None for z in needed.values()}) > 1:
        raise UserError(
            "captions are given with one model's embeddings alone; give both models the same, or "
            "neither"
        )
    if valid.shape != (n,):
        raise UserError(f"valid has shape {valid.shape}; expected ({n},), one flag per row")
