"""The parts of a run by their sizes alone: no weights, no vocabulary, no data."""

import types
from typing import NamedTuple

import ml_collections

from jest_tf.config import needs_reference
from jest_tf.models.dual_encoder import DualEncoderConfig
from jest_tf.selection import SelectionSpec
from jest_tf.training import assemble
from jest_tf.training.resolution import ResolutionSchedule


class Parts(NamedTuple):
    """What a step is made of. `reference` is None where the policy needs none."""

    learner: DualEncoderConfig
    reference: DualEncoderConfig | None
    spec: SelectionSpec
    schedule: ResolutionSchedule


def parts_of(
    config: ml_collections.ConfigDict,
    n_replicas: int,
    reference_config: ml_collections.ConfigDict | None = None,
) -> Parts:
    """Sizes of both models, the policy and the step plans.

    Args:
      config: the run; a vocabulary that is still to be trained counts as full.
      n_replicas: replicas that share each step.
      reference_config: that of the reference's run; default: as large as the learner.

    Raises:
      UserError: sizes that do not divide, or a resolution that the model cannot take.
    """
    learner = model_size(config)
    reference = model_size(reference_config or config) if needs_reference(config) else None
    schedule = assemble.resolution_schedule(
        config,
        types.SimpleNamespace(config=learner),
        types.SimpleNamespace(config=reference) if reference else None,
        n_replicas,
    )
    return Parts(learner, reference, assemble.selection_spec(config), schedule)


def model_size(config: ml_collections.ConfigDict) -> DualEncoderConfig:
    """The sizes that `config.model` names."""
    return DualEncoderConfig.from_variant(
        config.model.variant,
        image_size=config.model.image_size,
        patch_size=config.model.patch_size,
        n_tokens=config.data.n_tokens,
        vocab_size=config.data.vocab_size,
    )
