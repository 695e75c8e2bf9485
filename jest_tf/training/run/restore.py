"""Models that a run has saved: to go on training, to evaluate, to export, to be a reference."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib

import keras
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from jest_tf.config import AUTO, needs_reference
from jest_tf.data.manifest import Manifest
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.data.sources import register
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError
from jest_tf.files import parse_json, write_atomically
from jest_tf.model_record import PixelRule
from jest_tf.models.dual_encoder import DualEncoder
from jest_tf.models.transformer import PREFIX
from jest_tf.models.vit import resize_patch_kernel, resize_positions
from jest_tf.training.assemble import build_model, choose_trained
from jest_tf.training.inputs import workdir_rules
from jest_tf.training.run.checkpoint import Checkpointer
from jest_tf.training.run.workdir import stored_config
from jest_tf.tuning import initial_bias

LEARNER = "learner/"  # prefix of the learner's variables in a checkpoint
OPTIMIZER = "optimizer/"
AVERAGE = "average/"  # of the averages of trained weights, see `optimizer.ema`
CACHE_IT = (
    "let the reference read the data its own way, once: python -m jest_tf.cache_reference "
    "--reference=DIR --data=… --out=CACHE, then --config.reference.cache=CACHE"
)
REFERENCE_RECORD = "reference.json"  # its name in a workdir


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A model with the tokenizer and config that it was trained with."""

    config: ConfigDict
    model: DualEncoder
    tokenizer: Tokenizer
    step: int
    state: dict


def learner_variables(model: DualEncoder) -> dict[str, keras.Variable]:
    """Checkpoint name -> variable of a model."""
    return {LEARNER + v.path: v for v in model.variables}


def load_workdir(workdir: str, step: int | None = None) -> LoadedRun:
    """The model that a run has saved: at `step`, or its newest sound checkpoint.

    With averaged weights, if kept, and adapters merged into their kernels. UserError: no run, no
    checkpoint, or one that the config does not fit.
    """
    config = stored_config(workdir)
    register(config.data.tfds_module)
    tokenizer, pixels = workdir_rules(workdir, config)
    model = build_model(config, tokenizer.vocab_size, pixels)
    checkpoints = Checkpointer(os.path.join(workdir, "checkpoints"), config.checkpoint.keep)
    state = checkpoints.restore(learner_variables(model), step, only=LEARNER)
    if state is not None and config.optimizer.ema:
        choose_trained(model, config)
        averages = {AVERAGE + v.path: v for v in model.trainable_variables}
        checkpoints.restore(averages, state["step"], only=AVERAGE)
        model.trainable = True
    if state is None:
        raise UserError(
            f"{workdir} holds no checkpoint. Train it first: "
            f"python -m jest_tf.train --config=… --workdir={workdir}"
        )
    return LoadedRun(config, model.merged(), tokenizer, state["step"], state)


def choose_reference(config: ConfigDict, record: pathlib.Path, again: bool = False) -> None:
    """Writes into `record` which checkpoint of the reference a new run takes: its newest sound one.

    So a resumed run and every worker take the same one. A record that exists stays, but for that of
    a failed start (`again`). UserError: no run there, or all of its checkpoints are damaged.
    """
    if again:
        record.unlink(missing_ok=True)
    if not _runs_reference(config) or record.exists():
        return
    workdir = config.reference.workdir
    keep = stored_config(workdir).checkpoint.keep
    step = Checkpointer(os.path.join(workdir, "checkpoints"), keep).newest_sound_step()
    if step is not None:
        kept = {"workdir": os.path.abspath(workdir), "step": step}
        write_atomically(record, json.dumps(kept).encode())


def _runs_reference(config: ConfigDict) -> bool:
    return needs_reference(config) and not config.reference.cache


def load_reference(
    config: ConfigDict,
    tokenizer: Tokenizer,
    record: pathlib.Path,
    pixels: PixelRule = PixelRule(),
    is_chief: bool = False,
) -> DualEncoder | None:
    """The frozen reference that the steps run, or None: none is needed, or it is cached.

    record: which checkpoint to take, see `choose_reference`; the chief adds the identity of the
    weights. UserError: no such run, it does not read texts or pictures as the learner does, or its
    weights are not those that this run began with.
    """
    if not _runs_reference(config):
        return None
    workdir = config.reference.workdir
    kept = parse_json(record.read_text()) if record.exists() else {}
    run = load_workdir(workdir, kept.get("step"))
    if run.tokenizer.fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"the reference in {workdir} reads text as {run.tokenizer.fingerprint} (vocabulary, "
            f"length and rule), this run as {tokenizer.fingerprint}. Set --config.data.vocab="
            f"{workdir} and --config.data.n_tokens={run.config.data.n_tokens}, or {CACHE_IT}."
        )
    if run.model.pixels != pixels:
        raise UserError(
            f"the reference in {workdir} takes pictures resized by {run.model.pixels}, this run by "
            f"{pixels}. Set --config.data.resize, or {CACHE_IT}."
        )
    weights = reference_identity(run)["weights"]
    if kept.get("weights", weights) != weights:
        raise UserError(
            f"the reference in {workdir} is not the one that this run began with: step "
            f"{run.step} has weights {weights}, expected {kept['weights']} ({record}). Name the "
            f"run that lay in {kept['workdir']}, or take another --workdir."
        )
    if is_chief and kept and "weights" not in kept:
        write_atomically(record, json.dumps(kept | {"weights": weights}).encode())
    run.model.trainable = False
    return run.model


def open_cache(config: ConfigDict, manifest: Manifest) -> ReferenceCache | None:
    """The checked `config.reference.cache`, or None; UserError: of other data, or another run's."""
    is_read = needs_reference(config) or config.data.prefilter < 1
    if not (is_read and config.reference.cache):
        return None
    cache = ReferenceCache.load(config.reference.cache)
    cache.check_manifest(manifest)
    if config.reference.workdir:
        cache.check_identity(reference_identity(load_workdir(config.reference.workdir)))
    return cache


def weights_digest(model: DualEncoder, of_logits: bool = True) -> str:
    """Fingerprint of a model's weights; of_logits: with the scale and bias of the logits."""
    digest = hashlib.sha256()
    for variable in model.variables:
        if of_logits or variable.shape:
            digest.update(variable.path.encode())
            digest.update(variable.numpy().tobytes())
    return digest.hexdigest()[:16]


def reference_identity(run: LoadedRun) -> dict[str, str | int]:
    """What a run's embeddings depend on; kept in a cache and compared before it is used."""
    rule = run.model.pixels
    return {
        "weights": weights_digest(run.model),
        "step": int(run.step),
        "tokenizer": run.tokenizer.fingerprint,
        "decoded_size": int(run.config.data.image_size),
        "image_size": int(run.model.config.image_size),
    } | ({"pixels": str(rule)} if rule != PixelRule() else {})


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
    digest = functools.partial(weights_digest, learner.merged())
    if cache is not None:
        same = cache.identity.get("weights") == digest()
    else:  # whose scale and bias may have been calibrated
        same = reference is not None and digest(False) == weights_digest(reference, False)
    if same:
        raise UserError(
            "the learner starts as its own reference, so learnability (the learner's loss minus "
            "the reference's) is 0 for every pair and the selection would be random. Set "
            "--config.selection.learner_weight=0.5, --config.selection.criterion=easy_reference, "
            "or --config.reference.workdir to another model."
        )
