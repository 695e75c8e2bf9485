"""What a second replica brings, what replicas send each other, and how long `check` takes.

    python -m benchmarks.distributed [--rounds=9] [--figures=throughput,…] [--update_docs]

Prints one JSON object per line, and needs an idle machine with 2 cores. In `mirrored2_throughput`
both programs use both: one device through TensorFlow's threads, two devices with one half of the
rows each, so that below 1 something is computed twice or waited for. In `mirrored2_embedding`, a
process of its own, a device has one thread and so one core, as another GPU brings processors of its
own.
"""

import functools
import math
import os
import resource
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks.figure_page import DISTRIBUTED
from benchmarks.figures import emit
from benchmarks.selection_costs import traffic
from benchmarks.timing import fastest, in_own_process
from jest_tf import cli
from jest_tf.collectives import Collectives
from jest_tf.config import base_config
from jest_tf.devices import GIB
from jest_tf.errors import UserError
from jest_tf.models.dual_encoder import VARIANTS, DualEncoder, DualEncoderConfig
from jest_tf.runtime import strategy
from jest_tf.runtime.collectives import ReplicaCollectives
from jest_tf.selection import SelectionSpec
from jest_tf.selection.exchange import assign
from jest_tf.serving.encoders import towers
from jest_tf.training import optimizer
from jest_tf.training.jest_model import TRAINED_FEATURES, JestModel
from jest_tf.training.resolution import ResolutionSchedule

FLAGS = flags.FlagValues()
_ROUNDS = flags.DEFINE_integer(
    "rounds", 9, "Timed rounds; the fastest of each program counts.", flag_values=FLAGS
)
_FIGURES = flags.DEFINE_list(
    "figures", ["throughput", "bytes", "check", "embedding"], "What to print.", flag_values=FLAGS
)
_THREADS = flags.DEFINE_integer(
    "threads", 0, "Of a device; 0: TensorFlow's own number.", flag_values=FLAGS
)
_UPDATE_DOCS = flags.DEFINE_bool(
    "update_docs", False, "Keep the figures, and show them in docs/scaling.md.",
    flag_values=FLAGS,
)  # fmt: skip
_SIZES = flags.DEFINE_list(
    "sizes", ["640", "128", "16"], "super_batch, sub_batch and n_chunks.", flag_values=FLAGS
)

REPLICAS = 2
PAPER_CHECK = (
    "--config=configs/jest_b16.py", "--nodata", "--replicas=128", "--hosts=32", "--device=v5p",
)  # fmt: skip


class SentBytes:
    """Another `Collectives` that sums up, while the step runs, the bytes this replica hands in."""

    def __init__(self, inner: Collectives):
        self._inner = inner
        self.rank, self.size, self.in_loops = inner.rank, inner.size, inner.in_loops
        self.total = tf.zeros([], tf.int64)

    def all_gather(self, x: tf.Tensor) -> tf.Tensor:
        self._count(x)
        return self._inner.all_gather(x)

    def all_reduce_sum(self, x: tf.Tensor) -> tf.Tensor:
        self._count(x)
        return self._inner.all_reduce_sum(x)

    def _count(self, x):
        for tensor in tf.nest.flatten(x):
            tensor = tf.convert_to_tensor(tensor)
            self.total += tf.size(tensor, tf.int64) * tensor.dtype.size


def runtime_of(n_replicas: int) -> strategy.Runtime:
    """So many logical devices of this machine."""
    c = base_config()
    c.strategy.kind = "mirrored" if n_replicas > 1 else "default"
    c.strategy.n_devices = n_replicas
    return strategy.build(c)


class ReplicatedStep:
    """The whole JEST step on noise, a live reference included, on some replicas of this machine."""

    def __init__(self, config: DualEncoderConfig, spec: SelectionSpec, n_replicas: int):
        self._runtime = runtime_of(n_replicas)
        plan = ResolutionSchedule(
            config, sub_batch=spec.sub_batch, total_steps=1, n_replicas=n_replicas,
            reference_model=config,
        ).plan(0)  # fmt: skip
        with self._runtime.strategy.scope():
            learner, reference = DualEncoder(config, seed=0), DualEncoder(config, seed=1)
            self.model = JestModel(
                learner, reference, spec, plan=plan, collectives=self._collectives
            )
            self.model.optimizer = optimizer.build(
                base_config().optimizer, 1000, learner.trainable_variables
            )
        self.counts_bytes = False
        self._counters = {}  # replica -> SentBytes: their threads take turns while tracing
        self._batch = {
            name: self._rows(values, spec.super_batch // n_replicas)
            for name, values in noise(config, spec.super_batch).items()
        }
        self._run = tf.function(self._distributed, autograph=False)

    def __call__(self) -> tf.Tensor:
        """One step; returns its loss."""
        return self._first(self._run(self._batch)[0])

    def bytes_and_positions(self) -> tuple[int, np.ndarray]:
        """Bytes that a replica hands in during one step, and what that step picked."""
        self.counts_bytes = True
        _, sent, positions = tf.function(self._distributed, autograph=False)(self._batch)
        self.counts_bytes = False
        return int(self._first(sent)), self._first(positions).numpy()

    def _distributed(self, batch):
        return self._runtime.strategy.run(self._runtime.compiled(self._on_replica), args=(batch,))

    def _on_replica(self, batch):
        output = self.model.step(batch)
        sent = (
            self._counters[self._replica()].total if self.counts_bytes else tf.zeros([], tf.int64)
        )
        return output.metrics["train/loss"], sent, output.selection.positions

    def _collectives(self) -> Collectives:
        if not self.counts_bytes:
            return self._runtime.collectives()
        counter = SentBytes(ReplicaCollectives())
        self._counters[self._replica()] = counter
        return counter

    def _replica(self) -> int:
        context = tf.distribute.get_replica_context()
        return int(tf.get_static_value(context.replica_id_in_sync_group))

    def _rows(self, values: np.ndarray, n: int):
        return self._runtime.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(values[context.replica_id_in_sync_group * n :][:n])
        )

    def _first(self, value) -> tf.Tensor:
        return self._runtime.strategy.experimental_local_results(value)[0]


def noise(config: DualEncoderConfig, n: int) -> dict[str, np.ndarray]:
    """A super-batch of random pixels and tokens, as the pipeline would give it."""
    generator = np.random.default_rng(0)
    side = config.image_size
    return {
        "id": np.arange(n, dtype=np.int64),
        "image": generator.integers(0, 256, (n, side, side, 3), np.uint8),
        "tokens": generator.integers(0, config.vocab_size, (n, config.n_tokens), np.int32),
        "valid": np.ones([n], bool),
        "source": np.zeros([n], np.int32),
    }


def throughput_row(config: DualEncoderConfig, spec: SelectionSpec, rounds: int) -> dict:
    """Images scored a second on two replicas over those on one device, the same cores."""
    programs = {str(n): ReplicatedStep(config, spec, n) for n in (1, REPLICAS)}
    seconds = fastest(programs, rounds)
    rates = {n: spec.super_batch / took for n, took in seconds.items()}
    return {
        "figure": "mirrored2_throughput", "value": rates[str(REPLICAS)] / rates["1"],
        "goal": ">= 0.9", "unit": "x one device", "images_per_second": rates, "repeats": rounds,
        **_sizes(spec),
    }  # fmt: skip


def embedding_row(config: DualEncoderConfig, rounds: int, batch: int = 256) -> dict:
    """Pictures that an evaluation embeds a second, on two replicas over one, of a core each."""
    if _THREADS.value != 1:
        arguments = "--figures=embedding", "--threads=1", f"--rounds={rounds}"
        return in_own_process("benchmarks.distributed", *arguments)
    images, programs = noise(config, batch)["image"], {}
    for n in (1, REPLICAS):
        runtime = runtime_of(n)
        with runtime.strategy.scope():
            encode, _ = towers(DualEncoder(config, seed=0), config.image_size, runtime.by_rows)
        programs[str(n)] = functools.partial(encode, images)
    rates = {n: batch / took for n, took in fastest(programs, rounds).items()}
    return {
        "figure": "mirrored2_embedding", "value": rates[str(REPLICAS)] / rates["1"],
        "goal": ">= 1.8", "unit": "x one device", "images_per_second": rates, "repeats": rounds,
        "model": "mu", "threads_of_a_device": 1, "cores": len(os.sched_getaffinity(0)),
    }  # fmt: skip


def bytes_row(config: DualEncoderConfig, spec: SelectionSpec) -> dict:
    """Bytes that a replica hands to the collectives in one step over the stated payload.

    The payload: k (value, position) pairs a chunk, the picked embeddings, the picked examples that
    change replica, the gradients. Not in it: the embeddings that the loss gathers, ids, scalars.
    """
    step = ReplicatedStep(config, spec, REPLICAS)
    sent, positions = step.bytes_and_positions()
    payload = stated_payload(step.model, spec, positions)
    return {
        "figure": "collective_bytes_over_minimum", "value": sent / sum(payload.values()),
        "goal": "<= 1.1", "unit": "ratio", "bytes": sent, "payload": payload,
        "replicas": REPLICAS, **_sizes(spec),
    }  # fmt: skip


def stated_payload(model: JestModel, spec: SelectionSpec, positions: np.ndarray) -> dict[str, int]:
    """What a replica has to hand in, bytes by kind."""
    learner = model.learner
    widths = [learner.config.embed_dim, model.reference.config.embed_dim]
    selection = traffic(spec, REPLICAS, widths)
    surplus = assign(tf.constant(positions), spec.super_batch // REPLICAS, REPLICAS).n_travel
    example = noise(learner.config, 1)
    return {
        "pairs": selection["all_gather"],
        "picked_embeddings": selection["all_reduce_sum"],
        "picked_examples": int(surplus) * sum(example[name].nbytes for name in TRAINED_FEATURES),
        "gradients": 4 * sum(math.prod(v.shape) for v in learner.trainable_variables),
    }


def check_row() -> dict:
    """Seconds and peak memory of `python -m jest_tf.check` on the paper's config."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "jest_tf.check", *PAPER_CHECK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # Linux: KiB
    return {
        "figure": "check_seconds", "value": took, "goal": "< 30, < 4 GiB", "unit": "s",
        "peak_gib": peak / GIB, "command": f"python -m jest_tf.check {' '.join(PAPER_CHECK)}",
    }  # fmt: skip


def _sizes(spec: SelectionSpec) -> dict:
    return {
        "model": "mu", "super_batch": spec.super_batch, "sub_batch": spec.sub_batch,
        "n_chunks": spec.n_chunks,
    }  # fmt: skip


def main(_: list[str]) -> None:
    """Prints the figures asked for."""
    spec = SelectionSpec(*map(int, _SIZES.value[:2]), n_chunks=int(_SIZES.value[2]))
    model = VARIANTS["mu"]
    rows = {
        "throughput": lambda: throughput_row(model, spec, _ROUNDS.value),
        "bytes": lambda: bytes_row(model, spec),
        "check": check_row,
        "embedding": lambda: embedding_row(model, _ROUNDS.value),
    }
    if unknown := set(_FIGURES.value) - set(rows):
        raise UserError(f"--figures has {sorted(unknown)}: expected some of {list(rows)}")
    # Logical devices must be there before TensorFlow touches any.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * REPLICAS,
    )
    tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
    for name in _FIGURES.value:
        line = emit(**rows[name]())
        if _UPDATE_DOCS.value:
            DISTRIBUTED.keep([line])


if __name__ == "__main__":
    cli.run(main, FLAGS)
