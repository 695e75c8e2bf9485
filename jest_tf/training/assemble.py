"""From a config to the parts of a run: model, policy, resolution schedule."""

from collections.abc import Callable

import keras
import ml_collections

from jest_tf.data.augmentation import augmentation
from jest_tf.model_record import PixelRule
from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig
from jest_tf.models.lora import Lora
from jest_tf.selection import Collectives, SelectionSpec
from jest_tf.training import optimizer
from jest_tf.training.jest_model import JestModel
from jest_tf.training.resolution import (
    Approximation,
    Resolution,
    ResolutionSchedule,
    StepPlan,
)
from jest_tf.training.trained import learning_rates
from jest_tf.tuning import initial_bias


def model_size(config: ml_collections.ConfigDict, vocab_size: int) -> DualEncoderConfig:
    """The sizes that `config.model` names; its `sizes` come before those of the variant."""
    given = {
        "image_size": config.model.image_size,
        "patch_size": config.model.patch_size,
        "n_tokens": config.data.n_tokens,
        "vocab_size": vocab_size,
        "init_scale": config.model.init_scale,
        "init_bias": initial_bias(config),
    }
    sizes = config.model.get("sizes", ml_collections.ConfigDict()).to_dict()
    return DualEncoderConfig.from_variant(config.model.variant, **(given | sizes))


def build_model(
    config: ml_collections.ConfigDict, vocab_size: int, pixels: PixelRule = PixelRule()
) -> DualEncoder:
    """The dual encoder of `config.model`, freshly initialised from `config.seed`."""
    policy = "mixed_bfloat16" if config.precision == "bfloat16" else "float32"
    size = model_size(config, vocab_size)
    return DualEncoder(
        size,
        seed=config.seed,
        dtype=keras.DTypePolicy(policy),
        recompute=config.strategy.recompute,
        pixels=pixels,
        lora=Lora(**config.model.lora) if config.model.lora.rank else None,
    )


def build_jest_model(
    config: ml_collections.ConfigDict,
    learner: DualEncoder,
    reference: DualEncoder | None,
    plan: StepPlan,
    collectives: Callable[[], Collectives],
    cached_reference: tuple[float, float] | None = None,
) -> JestModel:
    """The model whose steps a run makes, with its optimizer built; see `JestModel`."""
    augment = tuple(config.data.augment)
    model = JestModel(
        learner,
        reference,
        selection_spec(config),
        plan=plan,
        loss=config.loss,
        clip_norm=config.optimizer.clip_norm,
        seed=config.seed,
        collectives=collectives,
        cached_reference=cached_reference,
        augment=augmentation(augment) if augment else None,
        micro_batch=config.strategy.micro_batch,
        distillation=config.reference.distillation,
        same_caption=config.same_caption,
    )
    model.optimizer = optimizer.build(
        config.optimizer,
        config.total_steps,
        learner.trainable_variables,
        learning_rates(learner.trainable_variables, config),
    )
    return model


def selection_spec(config: ml_collections.ConfigDict) -> SelectionSpec:
    """The policy of `config.selection`."""
    return SelectionSpec(loss=config.loss, **config.selection.to_dict())


def resolution_schedule(
    config: ml_collections.ConfigDict,
    learner: DualEncoderConfig,
    reference: DualEncoderConfig | None,
    n_replicas: int,
) -> ResolutionSchedule:
    """At which fidelity every step scores and trains, as `config.resolution` says."""
    c = config.resolution
    return ResolutionSchedule(
        learner,
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
        reference_model=reference,
    )


def _approximation(c: ml_collections.ConfigDict) -> Approximation:
    resolution = Resolution.parse(c.resolution) if c.resolution else None
    return Approximation(resolution, c.image_depth, c.text_depth, c.n_tokens)
