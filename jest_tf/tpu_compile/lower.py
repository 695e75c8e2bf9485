"""From a config to the HLO of its programs, as one of R replicas runs them. Needs no TPU."""

import re
from collections.abc import Callable

import ml_collections
import tensorflow as tf

from jest_tf.errors import UserError
from jest_tf.models.dual_encoder import DualEncoderConfig
from jest_tf.selection import Embeddings, select
from jest_tf.tpu_compile.collectives import CompiledCollectives
from jest_tf.training import assemble


def lower_selection(config: ml_collections.ConfigDict, n_replicas: int) -> bytes:
    """The selection of a step, from embeddings to positions, among `n_replicas`.

    Raises:
      UserError: TensorFlow cannot lower an operation; the message names it.
    """
    spec = assemble.selection_spec(config)
    n = spec.super_batch // n_replicas
    width = DualEncoderConfig.from_variant(config.model.variant).embed_dim
    rows, scalar = tf.TensorSpec([n, width]), tf.TensorSpec([])
    embeddings = Embeddings(rows, rows, scalar, scalar)

    def program(learner, reference, valid, seed):
        return select(spec, learner, reference, valid, seed, CompiledCollectives(n_replicas))

    valid, seed = tf.TensorSpec([n], tf.bool), tf.TensorSpec([2], tf.int32)
    return hlo_of("selection", program, embeddings, embeddings, valid, seed)


def hlo_of(name: str, program: Callable, *specs) -> bytes:
    """Serialized HLO of a function of tensors with static shapes.

    Args:
      name: of the program, for messages.
      program: traced once; may capture variables, whose shapes count and not their values.
      *specs: nests of TensorSpec.

    Raises:
      UserError: an operation that XLA does not know or cannot give a static shape, with the lines
        of this package that made it.
    """
    flat = tf.nest.flatten(specs)

    def flat_program(*tensors):
        return program(*tf.nest.pack_sequence_as(specs, tensors))

    compiled = tf.function(flat_program, jit_compile=True, autograph=False)
    try:
        return compiled.experimental_get_compiler_ir(*flat)(stage="hlo_serialized")
    except (ValueError, TypeError, tf.errors.OpError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{name} cannot be lowered for TPU: {_explain(str(error))}") from error


def _explain(text: str) -> str:
    """What XLA objected to, the operation, and where this package made it."""
    # Else the first line alone: XLA appends advice that only fits a program that can be changed.
    first = next((line for line in text.splitlines() if line.strip()), "").strip()
    first = first.removeprefix("Failed getting HLO text: '")
    lines = re.findall(r'File "[^"]*?(jest_tf/[^"]+)", line (\d+), in (\w+)', text)
    node = re.search(r"\{\{node ([^}]+)\}\}", text)
    parts = [first]
    if node and node[1] not in first:
        parts.append(f"operation: {node[1]}")
    if lines:
        path, line, function = lines[-1]
        parts.append(f"made in {path}, line {line}, in {function}")
    return "\n".join(parts)
