"""The step's programs compiled for a TPU type: what they need of each chip."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent import futures

from ml_collections import ConfigDict

from jest_tf.devices import Topology
from jest_tf.errors import UserError
from jest_tf.preflight.report import Section, binary, decimal
from jest_tf.preflight.tpu_compile import compiler, lower
from jest_tf.preflight.tpu_compile.compiler import Compiled
from jest_tf.training.assemble import Parts

NOT_PROVEN = (
    "XLA's TPU compiler takes the programs, with collectives over all chips, and they fit. Not "
    "proven: that TPUStrategy and TensorFlow's own TPU lowering agree, speed, or that it runs."
)


def check_compile(
    config: ConfigDict,
    parts: Parts,
    topology: Topology,
    environment: str,
    reference_config: ConfigDict | None = None,
) -> Section:
    """Compiles the selection and the train step of every plan for all chips of a topology."""
    section = Section(f"Compiled for {topology.name}: {topology.n_chips} chips, one replica each")
    try:
        for compiled in programs(config, parts, topology, environment, reference_config):
            _describe(section, compiled, topology)
    except UserError as error:
        section.problems.append(str(error))
        return section
    section.add("what this proves", NOT_PROVEN)
    return section


def programs(
    config: ConfigDict,
    parts: Parts,
    topology: Topology,
    environment: str,
    reference_config: ConfigDict | None = None,
) -> Iterator[Compiled]:
    """Yields each program of the run as it is compiled: the selection, then one step per plan.

    UserError: no environment that compiles, or a program that cannot be lowered or compiled.
    """
    python, n = compiler.python_of(environment), topology.n_chips
    if parts.spec.policy != "uniform":
        hlo = _in_child(lower.lower_selection, config, n)
        yield compiler.compile_hlo("selection", hlo, topology, python)
    for plan in parts.schedule.plans():
        name = "train step " + " + ".join(str(part.at.resolution) for part in plan.train)
        hlo = _in_child(lower.lower_train_step, config, n, plan, reference_config)
        yield compiler.compile_hlo(name, hlo, topology, python)


def _in_child(function: Callable, *arguments: object) -> bytes:
    """The result of a call in a process of its own: TensorFlow keeps GB of what it has lowered."""
    spawn = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except futures.process.BrokenProcessPool:
            raise UserError(
                "the process that lowers the program was killed, probably for lack of memory on "
                "this machine: it holds the weights of both models and the optimizer."
            ) from None


def _describe(section: Section, compiled: Compiled, topology: Topology) -> None:
    free = topology.device.memory - compiled.used
    section.add(
        compiled.name,
        f"HBM {binary(compiled.used)} used, {binary(free)} free per chip; "
        f"{decimal(compiled.flops)}FLOP (loop bodies once); in {compiled.compile_seconds:.0f} s",
    )
    once = [c["bytes"] for c in compiled.collectives if not c["in_loop"]]
    looped = [c["bytes"] for c in compiled.collectives if c["in_loop"]]
    section.add(
        "  collectives",
        f"{len(once)} of {binary(sum(once))} a step, and {len(looped)} in loops of "
        f"{binary(sum(looped))} a turn",
    )
