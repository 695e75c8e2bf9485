"""Models that a run has saved: to go on training, to evaluate, to export, to be a reference."""

import dataclasses
import os

import keras
import ml_collections

from jest_tf.config import needs_reference
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError
from jest_tf.models.dual_encoder import DualEncoder
from jest_tf.training.assemble import build_model
from jest_tf.training.checkpoint import Checkpointer
from jest_tf.training.inputs import vocabulary_of
from jest_tf.training.workdir import read_config

LEARNER = "learner/"  # prefix of the learner's variables in a checkpoint
OPTIMIZER = "optimizer/"


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A model with the tokenizer and config that it was trained with."""

    config: ml_collections.ConfigDict
    model: DualEncoder
    tokenizer: Tokenizer
    step: int
    state: dict


def learner_variables(model: DualEncoder) -> dict[str, keras.Variable]:
    """Checkpoint name -> variable of a model."""
    return {LEARNER + v.path: v for v in model.variables}


def load_workdir(workdir: str, step: int | None = None) -> LoadedRun:
    """The model that a run has saved: at `step`, or its newest sound checkpoint.

    Raises:
      UserError: no run there, no checkpoint, or a checkpoint that the config does not fit.
    """
    config = ml_collections.ConfigDict(read_config(workdir))
    tokenizer = Tokenizer(vocabulary_of(workdir), config.data.n_tokens)
    model = build_model(config, tokenizer)
    checkpoints = Checkpointer(os.path.join(workdir, "checkpoints"), config.checkpoint.keep)
    state = checkpoints.restore(learner_variables(model), step, only=LEARNER)
    if state is None:
        raise UserError(
            f"{workdir} holds no checkpoint. Train it first: "
            f"python -m jest_tf.train --config=… --workdir={workdir}"
        )
    return LoadedRun(config, model, tokenizer, state["step"], state)


def load_reference(config: ml_collections.ConfigDict, tokenizer: Tokenizer) -> DualEncoder | None:
    """The frozen reference that the policy needs, or None where it needs none.

    Raises:
      UserError: its text or image preprocessing is not the learner's, so that one super-batch
        cannot serve both.
    """
    if not needs_reference(config):
        return None
    run = load_workdir(config.reference.workdir)
    found = run.tokenizer.fingerprint
    if found != tokenizer.fingerprint:
        raise UserError(
            f"the reference in {config.reference.workdir} reads text with the vocabulary {found}, "
            f"this run with {tokenizer.fingerprint}. Set --config.data.vocab="
            f"{vocabulary_of(config.reference.workdir)}."
        )
    if run.config.data.n_tokens != config.data.n_tokens:
        raise UserError(
            f"the reference in {config.reference.workdir} has data.n_tokens = "
            f"{run.config.data.n_tokens}, this run {config.data.n_tokens}. Use the same."
        )
    run.model.trainable = False
    return run.model
