"""Selection by the losses of single examples, for models that are not contrastive.

A classifier's or a captioner's loss on an example does not depend on the batch around it. Then a
set scores the sum of its examples' scores, no pair term is left, and joint selection is independent
selection.
"""

import dataclasses
import warnings

import tensorflow as tf

from jest_tf.collectives import LOCAL, Collectives
from jest_tf.selection import scores
from jest_tf.selection.draw import Noise, draw_once
from jest_tf.selection.select import Candidates, summed_up
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
