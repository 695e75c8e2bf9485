"""The parts of a run by their sizes alone: no weights, no vocabulary, no data."""

import math
from typing import NamedTuple

import ml_collections
import tensorflow as tf

from jest_tf.config import needs_reference
from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig
from jest_tf.selection import SelectionSpec
from jest_tf.training import assemble
from jest_tf.training.resolution import ResolutionSchedule
from jest_tf.training.trained import choose_trained


class Parts(NamedTuple):
    """What a step is made of. `reference` is None where nothing needs one, or its embeddings come
    from a cache; they then count as wide as the learner's."""

    learner: DualEncoderConfig
    reference: DualEncoderConfig | None
    spec: SelectionSpec
    schedule: ResolutionSchedule
    n_learner: int  # weights, adapters included
    n_trained: int  # those of them that `config.model` trains
    n_reference: int  # 0 without a reference model


def teacher_dim(config: ml_collections.ConfigDict, parts: Parts) -> int:
    """Width of the embeddings that the learner is distilled from; 0 where it is not."""
    distils = parts.reference is not None and config.reference.distillation > 0
    return parts.reference.embed_dim if distils else 0


def parts_of(
    config: ml_collections.ConfigDict,
    n_replicas: int,
    reference_config: ml_collections.ConfigDict | None = None,
) -> Parts:
    """Sizes of both models, the policy and the step plans.

    A vocabulary that is still to be trained counts as full; reference_config: default: as large as
    the learner. UserError: sizes that do not divide, or an impossible resolution.
    """
    learner = assemble.model_size(config, config.data.vocab_size)
    reference = None
    if needs_reference(config) and not config.reference.cache:
        theirs = reference_config or config
        reference = assemble.model_size(theirs, theirs.data.vocab_size)
    schedule = assemble.resolution_schedule(config, learner, reference, n_replicas)
    with tf.Graph().as_default():  # shapes alone: no weight takes memory here
        model = assemble.build_model(config, config.data.vocab_size)
        choose_trained(model, config)
        n_reference = DualEncoder(reference).count_params() if reference else 0
    return Parts(
        learner,
        reference,
        assemble.selection_spec(config),
        schedule,
        n_learner=model.count_params(),
        n_trained=sum(math.prod(v.shape) for v in model.trainable_variables),
        n_reference=n_reference,
    )
