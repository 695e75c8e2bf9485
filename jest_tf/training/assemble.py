"""From a config to the parts of a run: model, policy, resolution schedule."""

import keras
import ml_collections

from jest_tf.data.tokenizer import Tokenizer
from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig
from jest_tf.selection import SelectionSpec
from jest_tf.training.resolution import Approximation, Resolution, ResolutionSchedule


def build_model(config: ml_collections.ConfigDict, tokenizer: Tokenizer) -> DualEncoder:
    """The dual encoder of `config.model`, freshly initialised from `config.seed`."""
    size = DualEncoderConfig.from_variant(
        config.model.variant,
        image_size=config.model.image_size,
        patch_size=config.model.patch_size,
        n_tokens=config.data.n_tokens,
        vocab_size=tokenizer.vocab_size,
        init_scale=config.model.init_scale,
        init_bias=config.model.init_bias,
    )
    policy = "mixed_bfloat16" if config.precision == "bfloat16" else "float32"
    return DualEncoder(size, seed=config.seed, dtype=keras.DTypePolicy(policy))


def selection_spec(config: ml_collections.ConfigDict) -> SelectionSpec:
    """The policy of `config.selection`."""
    return SelectionSpec(loss=config.loss, **config.selection.to_dict())


def resolution_schedule(
    config: ml_collections.ConfigDict,
    learner: DualEncoder,
    reference: DualEncoder | None,
    n_replicas: int,
) -> ResolutionSchedule:
    """At which fidelity every step scores and trains, as `config.resolution` says."""
    c = config.resolution
    return ResolutionSchedule(
        learner.config,
        sub_batch=config.selection.sub_batch,
        total_steps=config.total_steps,
        n_replicas=n_replicas,
        stages=[(fraction, Resolution.parse(text)) for fraction, text in c.stages],
        random=[Resolution.parse(text) for text in c.random],
        hold_steps=c.hold_steps,
        seed=config.seed,
        score=_approximation(c.score),
        low_share=c.low_share,
        reference=_approximation(c.reference),
        reference_model=reference.config if reference else None,
    )


def _approximation(c: ml_collections.ConfigDict) -> Approximation:
    resolution = Resolution.parse(c.resolution) if c.resolution else None
    return Approximation(resolution, c.image_depth, c.text_depth, c.n_tokens)
