"""From a config to the parts of a run: model, policy, resolution schedule."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf
from ml_collections import ConfigDict

from jest_tf.config import base_config, needs_reference
from jest_tf.data.augmentation import augmentation
from jest_tf.errors import UserError
from jest_tf.files import parse_json
from jest_tf.model_record import PixelRule
from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig
from jest_tf.models.transformer import PREFIX, Lora
from jest_tf.selection import Collectives, SelectionSpec
from jest_tf.training import optimizer
from jest_tf.training.jest_model import JestModel
from jest_tf.training.resolution import Approximation, Resolution, ResolutionSchedule, StepPlan
from jest_tf.tuning import TOWERS, initial_bias, trained_tower


def model_size(config: ConfigDict, vocab_size: int) -> DualEncoderConfig:
    """The sizes that `config.model` names; its `sizes` come before those of the variant."""
    given = {
        "image_size": config.model.image_size,
        "patch_size": config.model.patch_size,
        "n_tokens": config.data.n_tokens,
        "vocab_size": vocab_size,
        "init_scale": config.model.init_scale,
        "init_bias": initial_bias(config),
    }
    sizes = config.model.get("sizes", ConfigDict()).to_dict()
    return DualEncoderConfig.from_variant(config.model.variant, **(given | sizes))


def build_model(
    config: ConfigDict, vocab_size: int, pixels: PixelRule = PixelRule()
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
    config: ConfigDict,
    learner: DualEncoder,
    reference: DualEncoder | None,
    plan: StepPlan,
    collectives: Callable[[], Collectives],
    cached_reference: tuple[float, float] | None = None,
    compile_parts: bool = False,
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
        compile_parts=compile_parts,
        observe=config.log.ledger_records > 0,
    )
    variables = learner.trainable_variables
    parts = [variable.path.split("/")[1] for variable in variables]
    rates = [config.model[p].learning_rate if p in TOWERS else 1.0 for p in parts]
    model.optimizer = optimizer.build(config.optimizer, config.total_steps, variables, rates)
    return model


def selection_spec(config: ConfigDict) -> SelectionSpec:
    return SelectionSpec(loss=config.loss, **config.selection.to_dict())


def resolution_schedule(
    config: ConfigDict,
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


def _approximation(c: ConfigDict) -> Approximation:
    resolution = Resolution.parse(c.resolution) if c.resolution else None
    return Approximation(resolution, c.image_depth, c.text_depth, c.n_tokens)


def choose_trained(model: DualEncoder, config: ConfigDict) -> None:
    """Sets `trainable` of each weight by `config.model`; UserError: `last:K` beyond the tower."""
    scalars = {"log_scale": config.model.train_scale, "bias": config.model.train_bias}
    towers = {name: trained_tower(config, name) for name in TOWERS}
    for name, tower in towers.items():
        depth = getattr(model.config, name).depth
        if (tower.blocks or 0) > depth:
            raise UserError(
                f"model.{name}.train is {config.model[name].train!r}, but the tower has {depth} "
                "blocks."
            )
    for variable in model.variables:
        part, *place = variable.path.split("/")[1:]
        if part in scalars:
            variable.trainable = bool(scalars[part])
            continue
        tower, depth = towers[part], getattr(model.config, part).depth
        adapter = any(name.startswith(PREFIX) for name in place)
        kept = place == ["token_embedding"] and not config.model.text.train_embedding
        reached = _height(place) >= tower.first_block(depth)
        whole = tower.blocks is None
        trains = (whole or reached) and not tower.frozen and not kept
        variable.trainable = trains and adapter == bool(tower.rank)


def _height(place: list[str]) -> int:
    """The block of a weight; -1 for what comes before the first, a large number behind the last."""
    first = place[0]
    if first.startswith("block_"):
        return int(first.removeprefix("block_"))
    return -1 if first in ("embedding", "token_embedding", "positions") else 10**6


class Parts(NamedTuple):
    """What a step is made of."""

    learner: DualEncoderConfig
    reference: DualEncoderConfig | None  # None where none is needed, or it is cached
    spec: SelectionSpec
    schedule: ResolutionSchedule
    n_learner: int  # weights, adapters included
    n_trained: int  # those of them that `config.model` trains
    n_reference: int  # 0 without a reference model


def teacher_dim(config: ConfigDict, parts: Parts) -> int:
    """Width of the embeddings that it is distilled from (a cache's: as its own); 0: it is not."""
    return (parts.reference or parts.learner).embed_dim * (config.reference.distillation > 0)


def parts_of(
    config: ConfigDict, n_replicas: int, reference_config: ConfigDict | None = None
) -> Parts:
    """Sizes of both models, the policy and the step plans.

    A vocabulary that is still to be trained counts as full; reference_config: default: as large as
    the learner. UserError: sizes that do not divide, or an impossible resolution.
    """
    learner = model_size(config, config.data.vocab_size)
    reference = None
    if needs_reference(config) and not config.reference.cache:
        theirs = reference_config or config
        reference = model_size(theirs, theirs.data.vocab_size)
    schedule = resolution_schedule(config, learner, reference, n_replicas)
    n_learner, n_trained = _n_weights(learner, config.model.to_json())
    return Parts(
        learner, reference, selection_spec(config), schedule,
        n_learner=n_learner, n_trained=n_trained,
        n_reference=_n_weights(reference, base_config().model.to_json())[0] if reference else 0,
    )  # fmt: skip


@functools.cache
def _n_weights(size: DualEncoderConfig, model: str) -> tuple[int, int]:
    """Weights of a dual encoder, and those of them that `config.model` (as JSON) trains."""
    config = ConfigDict({"model": parse_json(model)})
    lora = Lora(**config.model.lora) if config.model.lora.rank else None
    with tf.Graph().as_default():  # shapes alone: no weight takes memory here
        encoder = DualEncoder(size, lora=lora)
        choose_trained(encoder, config)
    trained = sum(math.prod(v.shape) for v in encoder.trainable_variables)
    return encoder.count_params(), trained
