"""From a config to the HLO of its programs, as one of R replicas runs them. Needs no TPU."""

import re
import traceback
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from ml_collections import ConfigDict
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

from jest_tf.config import needs_reference
from jest_tf.errors import explaining
from jest_tf.models.dual_encoder import DualEncoderConfig
from jest_tf.runtime.collectives import SummingCollectives
from jest_tf.selection import Embeddings, select
from jest_tf.training import assemble
from jest_tf.training.jest_model import JestModel
from jest_tf.training.resolution import StepPlan

# What TPUs reduce. TPUStrategy refuses the rest as well, but only on a TPU.
REDUCIBLE = (tf.float32, tf.bfloat16, tf.float16, tf.int32, tf.uint32)


class CompiledCollectives(SummingCollectives):
    """Collectives of one program lowered for all replicas; `rank` is the chip's."""

    in_loops, word = True, tf.int32

    def __init__(self, size: int):
        self.size = size
        self.rank = tf.cast(gen_xla_ops.xla_replica_id(), tf.int32)

    def all_reduce_sum(self, x: Any) -> Any:
        """Of each tensor in a nest. TypeError: a type that TPUs cannot sum."""
        return tf.nest.map_structure(self._sum_one, x)

    def _sum_one(self, x: tf.Tensor) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        if x.dtype not in REDUCIBLE:
            names = ", ".join(t.name for t in REDUCIBLE)
            raise TypeError(f"all_reduce_sum of {x.dtype.name} {x.shape}: TPUs sum only {names}")

        @tf.custom_gradient
        def summed(x):
            return self._all_reduce(x), self._all_reduce

        return summed(x)

    def _all_reduce(self, x: tf.Tensor) -> tf.Tensor:
        everyone = tf.constant([list(range(self.size))], tf.int32)
        return gen_xla_ops.xla_all_reduce(x, everyone, reduce_op="Add", mode="CrossReplica")


def lower_selection(config: ConfigDict, n_replicas: int) -> bytes:
    """The selection of a step, from embeddings to positions, among `n_replicas`."""
    spec = assemble.selection_spec(config)
    n = spec.super_batch // n_replicas
    width = DualEncoderConfig.from_variant(config.model.variant).embed_dim
    rows, scalar = tf.TensorSpec([n, width]), tf.TensorSpec([])
    embeddings = Embeddings(rows, rows, scalar, scalar)

    def program(learner, reference, valid, seed):
        return select(spec, learner, reference, valid, seed, CompiledCollectives(n_replicas))

    valid, seed = tf.TensorSpec([n], tf.bool), tf.TensorSpec([2], tf.int32)
    return hlo_of("selection", program, embeddings, embeddings, valid, seed)


def lower_train_step(
    config: ConfigDict,
    n_replicas: int,
    plan: StepPlan | None = None,
    reference_config: ConfigDict | None = None,
) -> bytes:
    """The whole step, from images and tokens to updated weights, as one of `n_replicas` runs it.

    plan: default: the run's first. reference_config: default: sizes of the learner.
    """
    model = jest_model(config, n_replicas, plan, reference_config or config)
    n, side = config.selection.super_batch // n_replicas, config.data.image_size
    batch = {
        "id": tf.TensorSpec([n], tf.int64),
        "image": tf.TensorSpec([n, side, side, 3], tf.uint8),
        "tokens": tf.TensorSpec([n, config.data.n_tokens], tf.int32),
        "valid": tf.TensorSpec([n], tf.bool),
        "source": tf.TensorSpec([n], tf.int32),
        "record": tf.TensorSpec([n], tf.int64),
    }
    return hlo_of("train step", model.step, batch)


def jest_model(
    config: ConfigDict, n_replicas: int, plan: StepPlan | None, reference_config: ConfigDict
) -> JestModel:
    """The model whose step is lowered, freshly initialised; see `lower_train_step`."""
    vocab_size = config.data.vocab_size
    learner = assemble.build_model(config, vocab_size)
    reference = None
    if needs_reference(config):
        reference = assemble.build_model(reference_config, vocab_size)
    sizes = learner.config, reference.config if reference else None
    schedule = assemble.resolution_schedule(config, *sizes, n_replicas)
    return assemble.build_jest_model(
        config,
        learner,
        reference,
        plan or schedule.plan(0),
        lambda: CompiledCollectives(n_replicas),
    )


def hlo_of(name: str, program: Callable, *specs) -> bytes:
    """Serialized HLO of a function of tensors with static shapes; of variables shapes alone count.

    specs: nests of TensorSpec. UserError: an operation that XLA does not know or cannot give a
    static shape, with the lines of this package that made it.
    """
    leaves = tf.nest.flatten(specs)
    flat = [leaf for leaf in leaves if leaf is not None]  # an optional tensor that is not there

    def flat_program(*tensors):
        given = iter(tensors)
        filled = [None if leaf is None else next(given) for leaf in leaves]
        return program(*tf.nest.pack_sequence_as(specs, filled))

    compiled = tf.function(flat_program, jit_compile=True, autograph=False)
    text = f"{name} cannot be lowered for TPU: {{error}}"
    with explaining((ValueError, TypeError, tf.errors.OpError), text, _explain):
        return compiled.experimental_get_compiler_ir(*flat)(stage="hlo_serialized")


def _explain(error: Exception) -> str:
    """What was objected to, the operation, and where this package made it."""
    text = str(error)
    # The first line alone: XLA appends advice that only fits a program that can be changed.
    first = next((line for line in text.splitlines() if line.strip()), "").strip()
    parts = [first.removeprefix("Failed getting HLO text: '")]
    node = re.search(r"\{\{node ([^}]+)\}\}", text)
    if node and node[1] not in first:
        parts.append(f"operation: {node[1]}")
    made_in = re.findall(r'File "[^"]*?(jest_tf/[^"]+)", line (\d+), in (\w+)', text)
    made_in = made_in or _frames_of_this_package(error)
    if made_in:
        parts.append("made in {}, line {}, in {}".format(*made_in[-1]))
    return "\n".join(parts)


def _frames_of_this_package(error: Exception) -> list[tuple[str, int, str]]:
    """(file, line, function) of the calls that led to an exception, but those of collectives."""
    frames = traceback.extract_tb(error.__traceback__)
    found = [(f.filename.rpartition("jest_tf/"), f.lineno, f.name) for f in frames]
    return [
        (f"jest_tf/{path}", line, function)
        for (_, package, path), line, function in found
        if package and not path.startswith(("preflight/tpu_compile/", "runtime/collectives"))
    ]
