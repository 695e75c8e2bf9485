"""Selection by the losses of single examples, for models that are not contrastive.

A classifier's or a captioner's loss on an example does not depend on the batch around it. Then a
set scores the sum of its examples' scores, no pair term is left, and joint selection is independent
selection.
"""

import dataclasses
import warnings

import tensorflow as tf

from jest_tf.collectives import LOCAL, Collectives
from jest_tf.selection.draw import Noise, draw_once, sum_over
from jest_tf.selection.spec import Selection, SelectionSpec


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
    start = collectives.rank * n
    score = _score(spec, n, learner_loss, reference_loss)
    usable = valid & tf.math.is_finite(score)
    score = tf.where(usable, score, 0.0)
    positions = draw_once(spec, score, usable, Noise(seed, None), collectives)
    sums = [tf.reduce_sum(tf.cast(rows, tf.float32)) for rows in (usable, valid, score)]
    sums.append(sum_over(score, positions, start))
    n_usable, n_valid, pool, chosen = tf.unstack(collectives.all_reduce_sum(tf.stack(sums)))
    n_candidates, n_valid = tf.cast(n_usable, tf.int32), tf.cast(n_valid, tf.int32)
    if spec.policy == "uniform":
        return Selection(positions, n_candidates, {}, n_valid)
    metrics = {
        "pool_score": pool / tf.maximum(n_usable, 1.0),
        "chosen_score": chosen / spec.sub_batch,
    }
    return Selection(positions, n_candidates, metrics, n_valid)


def _score(spec, n, learner_loss, reference_loss):
    """S_i float32 [n]: the criterion of each row."""
    terms = {
        "learnability": ((spec.learner_weight, "learner_loss"), (-1.0, "reference_loss")),
        "hard_learner": ((1.0, "learner_loss"),),
        "easy_reference": ((-1.0, "reference_loss"),),
    }[spec.criterion]
    losses = {"learner_loss": learner_loss, "reference_loss": reference_loss}
    score = tf.zeros([n])
    for sign, name in terms if spec.policy != "uniform" else ():
        loss = losses[name]
        if loss is None or tf.TensorShape(loss.shape) != (n,):
            found = None if loss is None else tuple(loss.shape)
            raise ValueError(
                f"{name} is {found}; criterion {spec.criterion} needs a tensor of shape ({n},)"
            )
        score += sign * tf.cast(tf.stop_gradient(loss), tf.float32)
    return score
