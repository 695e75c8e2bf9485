"""A learner that starts from the weights of a workdir, and is to differ from its reference."""

import keras
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.errors import UserError
from jest_tf.models.dual_encoder import DualEncoder
from jest_tf.models.lora import PREFIX
from jest_tf.models.vit import resize_patch_kernel, resize_positions
from jest_tf.training.run.restore import load_workdir, weights_digest
from jest_tf.tuning import AUTO, initial_bias

SCALARS = ("log_scale", "bias")


def start_from_init(config: ConfigDict, learner: DualEncoder) -> None:
    """Gives the learner the weights of `model.init`, at its own image and patch size.

    New adapters keep theirs, which add nothing. The bias follows unless `model.init_bias` is auto.
    UserError: no checkpoint there.
    """
    source = {v.path: v.value for v in load_workdir(config.model.init).model.variables}
    for variable in learner.variables:
        if f"/{PREFIX}" not in variable.path:
            variable.assign(_fitted(source[variable.path], variable))
    if config.model.init_bias == AUTO:
        learner.bias.assign(initial_bias(config))


def _fitted(value: tf.Tensor, variable: keras.Variable) -> np.ndarray:
    """The weight resized, as FlexiViT does, where the learner has another patch size or grid."""
    value, shape = tf.convert_to_tensor(value), tuple(variable.shape)
    if value.shape != shape and variable.path.endswith("image/embedding/kernel"):
        value = resize_patch_kernel(value, shape[0])
    elif value.shape != shape and variable.path.endswith("image/embedding/positions"):
        value = resize_positions(value, *shape[:2])
    return value.numpy()


def require_something_learnable(
    config: ConfigDict,
    learner: DualEncoder,
    reference: DualEncoder | None,
    cache: ReferenceCache | None,
) -> None:
    """Raises UserError if the learner is its reference, so that every learnability is 0."""
    s = config.selection
    if s.policy == "uniform" or s.criterion != "learnability" or s.learner_weight != 1:
        return
    if cache is not None:
        same = cache.identity.get("weights") == weights_digest(learner.merged())
    else:
        same = reference is not None and _towers_equal(learner.merged(), reference)
    if same:
        raise UserError(
            "the learner starts as its own reference, so learnability (the learner's loss minus "
            "the reference's) is 0 for every pair and the selection would be random. Set "
            "--config.selection.learner_weight=0.5, --config.selection.criterion=easy_reference, "
            "or --config.reference.workdir to another model."
        )


def _towers_equal(one: DualEncoder, other: DualEncoder) -> bool:
    theirs = {v.path: v for v in other.variables}
    return all(
        v.path in theirs and np.array_equal(v.numpy(), theirs[v.path].numpy())
        for v in one.variables
        if v.path.split("/")[-1] not in SCALARS or len(v.shape)
    )
