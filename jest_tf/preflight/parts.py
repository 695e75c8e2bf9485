"""The parts of a run by their sizes alone: no weights, no vocabulary, no data."""

from typing import NamedTuple

import ml_collections

from jest_tf.config import needs_reference
from jest_tf.models.dual_encoder import DualEncoderConfig
from jest_tf.selection import SelectionSpec
from jest_tf.training import assemble
from jest_tf.training.resolution import ResolutionSchedule


class Parts(NamedTuple):
    """What a step is made of. `reference` is None where nothing needs one, or its embeddings come
    from a cache; they then count as wide as the learner's."""

    learner: DualEncoderConfig
    reference: DualEncoderConfig | None
    spec: SelectionSpec
    schedule: ResolutionSchedule


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
    return Parts(learner, reference, assemble.selection_spec(config), schedule)
