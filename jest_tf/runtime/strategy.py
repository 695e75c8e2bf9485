"""Builds the tf.distribute strategy of a run. All that is particular to TPUs is here."""

import dataclasses
import functools
import os
from collections.abc import Callable

import ml_collections
import numpy as np
import tensorflow as tf

from jest_tf.collectives import TILE_VALUES, Collectives, LocalCollectives
from jest_tf.config import base_config
from jest_tf.devices import gpu_memory, tile_values
from jest_tf.errors import UserError, explaining
from jest_tf.runtime.collectives import ReplicaCollectives
from jest_tf.runtime.peers import Peers


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A strategy and what the rest of the program has to know about it."""

    strategy: tf.distribute.Strategy
    kind: str  # default | mirrored | multi_worker | tpu
    n_replicas: int
    n_hosts: int
    # One XLA program for the whole step: on TPUs and on one GPU.
    compile_whole_step: bool
    # One for whatever lies between two exchanges: among several GPUs. On CPUs compiled towers are
    # slower and take long to compile: there only the selection and small kernels are compiled.
    compile_parts: bool = False
    # Several steps in one program. tf.distribute's exchanges cannot be looped over off TPU.
    steps_in_graph: bool = False
    deterministic: bool = False
    tile_values: int = TILE_VALUES  # see `jest_tf.devices.tile_values`

    def collectives(self) -> Collectives:
        """The collectives of the current replica; call inside `strategy.run`."""
        form = LocalCollectives if self.n_replicas == 1 else ReplicaCollectives
        return form(self.tile_values)

    @property
    def worker(self) -> int:
        """Number of this process among those that train together; 0 is the chief."""
        resolver = self.strategy.cluster_resolver
        if self.kind != "multi_worker" or resolver is None:
            return 0
        is_behind = "chief" in resolver.cluster_spec().jobs and resolver.task_type != "chief"
        return (resolver.task_id or 0) + is_behind

    @property
    def is_chief(self) -> bool:
        """Whether this process writes logs, and checkpoints but for the others' shares."""
        return self.worker == 0

    def compiled(self, step: Callable) -> Callable:
        """The step as one XLA program where that is possible; for `strategy.run`."""
        if self.compile_whole_step and self.kind != "tpu":  # TPUStrategy compiles by itself
            return tf.function(step, jit_compile=True, autograph=False)
        return step

    def by_rows(
        self, encode: Callable[[tf.Tensor], tf.Tensor], compiled: bool = True
    ) -> Callable[..., np.ndarray]:
        """`encode`, [n, ...] -> [n, d], with an equal share of the rows on every replica.

        Shares are filled up with the last row. Variables must be of the strategy's scope. Every
        worker process must call it with the same rows, and gets the results of all of them.
        compiled: by XLA, on GPUs.
        """
        if compiled and self.kind != "tpu" and (self.compile_whole_step or self.compile_parts):
            encode = tf.function(encode, jit_compile=True, autograph=False)
        gathers = self.kind == "multi_worker"

        def on_replica(rows):
            return self.collectives().all_gather(encode(rows)) if gathers else encode(rows)

        program = tf.function(
            lambda rows: self.strategy.run(on_replica, args=(rows,)),
            reduce_retracing=True,
            autograph=False,
        )

        def on_all(rows) -> np.ndarray:
            rows, n = np.asarray(rows), len(rows)
            found = self.strategy.experimental_local_results(program(self._shares(rows)))
            return np.concatenate(found[:1] if gathers else found)[:n]

        return on_all

    def _shares(self, rows: np.ndarray) -> object:
        """Per-replica values: equal parts of `rows`, the last filled up with the last row."""
        k = -(-len(rows) // self.n_replicas)
        if self.n_replicas == 1:
            return tf.constant(rows)
        padding = [(0, k * self.n_replicas - len(rows))] + [(0, 0)] * (rows.ndim - 1)
        rows = np.pad(rows, padding, "edge")
        return self.strategy.experimental_distribute_values_from_function(
            lambda replica: tf.constant(rows[replica.replica_id_in_sync_group * k :][:k])
        )

    @property
    def alone(self) -> "Runtime":
        """What this process can use while other worker processes wait for it."""
        return ONE_DEVICE if self.kind == "multi_worker" else self

    @functools.cached_property
    def peers(self) -> Peers:
        n_workers = self.n_hosts if self.kind == "multi_worker" else 1
        return Peers(self.strategy, n_workers, self.is_chief, self.n_hosts)

    def distribute(self, per_host: Callable[[int, int, int], tf.data.Dataset]) -> object:
        """An iterable of per-replica batches.

        per_host: (host index, number of hosts, replicas on the host) -> dataset whose consecutive
        elements belong to the host's consecutive replicas.
        """
        if self.n_replicas == 1:
            return per_host(0, 1, 1)

        def build(context: tf.distribute.InputContext) -> tf.data.Dataset:
            n_hosts = context.num_input_pipelines
            replicas = context.num_replicas_in_sync // n_hosts
            batches = per_host(context.input_pipeline_id, n_hosts, replicas)
            # Batches that may end make every worker ask the others, in each step, whether theirs
            # have: an exchange in which a read error could not be survived.
            return batches.apply(
                tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
            )

        return self.strategy.distribute_datasets_from_function(build)


ONE_DEVICE = Runtime(tf.distribute.get_strategy(), "default", 1, 1, compile_whole_step=False)


def of_machine(tpu: str = "") -> Runtime:
    """All replicas at hand, for a command that embeds: of the TPU, or all GPUs, or the CPU."""
    config = base_config().unlock()
    config.strategy.tpu, config.strategy.n_devices = tpu, 0
    config.strategy.kind = "tpu" if tpu else "mirrored" if _has_gpu() else "default"
    return build(config)


def build(config: ml_collections.ConfigDict) -> Runtime:
    """The strategy that `config.strategy` names; before any other TensorFlow operation.

    Logical devices and collectives are fixed when TensorFlow first touches its devices. UserError:
    no TPU is there, or the devices asked for are missing.
    """
    kind = config.strategy.kind
    strategy = {
        "default": lambda _: tf.distribute.get_strategy(),
        "mirrored": _mirrored,
        "multi_worker": lambda _: _multi_worker(),
        "tpu": _tpu,
    }[kind](config.strategy)
    n_replicas = strategy.num_replicas_in_sync
    on_gpus = config.strategy.jit_compile and _has_gpu()
    return Runtime(
        strategy=strategy,
        kind=kind,
        n_replicas=n_replicas,
        n_hosts=n_hosts_of(kind, strategy),
        compile_whole_step=kind == "tpu" or (on_gpus and n_replicas == 1),
        compile_parts=kind != "tpu" and on_gpus and n_replicas > 1,
        steps_in_graph=config.strategy.steps_per_loop > 1 and (kind == "tpu" or n_replicas == 1),
        deterministic=config.strategy.deterministic,
        tile_values=tile_values(gpu_memory()) if kind != "tpu" and _has_gpu() else TILE_VALUES,
    )


def _mirrored(config: ml_collections.ConfigDict) -> tf.distribute.Strategy:
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        if config.n_devices > len(gpus):
            raise UserError(
                f"strategy.n_devices = {config.n_devices}, but TensorFlow sees {len(gpus)} GPU(s). "
                "Give 0 for all of them, or check CUDA_VISIBLE_DEVICES."
            )
        return tf.distribute.MirroredStrategy([d.name for d in gpus[: config.n_devices or None]])
    n_devices = config.n_devices or 1
    cpu = tf.config.list_physical_devices("CPU")[0]
    known = tf.config.get_logical_device_configuration(cpu)
    if not known or len(known) < n_devices:
        try:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * n_devices
            )
        except RuntimeError:
            raise UserError(
                f"strategy.n_devices = {n_devices}, but TensorFlow already runs with "
                f"{len(known or [1])} logical CPU device(s). Build the strategy first."
            ) from None
    # TensorFlow's collectives among CPUs keep the group size that a process first used; summing on
    # one device has no such state, and logical CPUs share their memory anyway.
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(n_devices)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def _multi_worker() -> tf.distribute.Strategy:
    if "TF_CONFIG" not in os.environ:
        raise UserError(
            "strategy.kind = 'multi_worker' reads the cluster from the variable TF_CONFIG, which "
            "is not set. Start the processes with launch/multi_worker.sh."
        )
    text = 'TF_CONFIG cannot be used: {error}. Expected e.g. {"cluster": {"worker": '
    text += '["10.0.0.1:12345", "10.0.0.2:12345"]}, "task": {"type": "worker", "index": 0}}.'
    with explaining((ValueError, TypeError, KeyError), text):
        return tf.distribute.MultiWorkerMirroredStrategy()


def _tpu(config: ml_collections.ConfigDict) -> tf.distribute.Strategy:
    text = f"strategy.kind = 'tpu', strategy.tpu = {config.tpu!r}: no TPU was found ({{error}}). "
    text += "Use 'local' on a TPU VM or the name of a pod slice; elsewhere use "
    text += "--config.strategy.kind=default."
    # The three forms in which TensorFlow says that there is no TPU (traps: seen on 2.20).
    with explaining((tf.errors.NotFoundError, IndexError, ValueError), text):
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=config.tpu)
        if config.tpu != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)


def _has_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


def n_hosts_of(kind: str, strategy: tf.distribute.Strategy) -> int:
    if kind == "multi_worker":
        tasks = strategy.cluster_resolver.cluster_spec().as_dict()
        return sum(len(tasks.get(job, [])) for job in ("chief", "worker")) or 1
    if kind == "tpu":
        return strategy.extended.num_hosts
    return 1
