"""The step's programs compiled for a TPU type: what they need of each chip."""

import dataclasses
import json
import multiprocessing
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures

from ml_collections import ConfigDict

from jest_tf.devices import Topology
from jest_tf.errors import UserError
from jest_tf.preflight.report import Section, binary, decimal
from jest_tf.preflight.tpu_compile import lower
from jest_tf.training.assemble import Parts

NOT_PROVEN = (
    "XLA's TPU compiler takes the programs, with collectives over all chips, and they fit. Not "
    "proven: that TPUStrategy and TensorFlow's own TPU lowering agree, speed, or that it runs."
)


WORKER = os.path.join(os.path.dirname(__file__), "tpu_compile", "worker.py")
SET_UP = "Make it with launch/tpu_compile_env.sh."


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program as TPU's compiler left it; bytes and operations of one chip."""

    name: str
    compile_seconds: float
    used: int  # arguments, results in memory of their own, temporaries, code
    temporary: int
    flops: float  # a loop's body counts once: too low where loops run long
    collectives: tuple[dict, ...]  # {op, name, bytes, in_loop} of each


def python_of(environment: str) -> str:
    """The interpreter of the environment that compiles for TPU; UserError: it was not set up."""
    python = os.path.join(environment, "bin", "python")
    if not os.access(python, os.X_OK):
        raise UserError(f"no environment that compiles for TPU at {environment}. {SET_UP}")
    return python


def compile_hlo(
    name: str, hlo: bytes, topology: Topology, python: str, timeout: float = 3600
) -> Compiled:
    """Compiles HLO for all chips of a slice; UserError: it is refused, or no compiler is there."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "program.hlo")  # names of programs hold `48/8`
        with open(path, "wb") as file:
            file.write(hlo)
        command = [python, WORKER, path, topology.name, str(topology.n_chips)]
        # An own session of Python: neither this one's packages nor its settings reach the worker.
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "XLA_", "TF_"))}
        try:
            done = subprocess.run(
                command, env=clean, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"{name}: not compiled for {topology.name} within {timeout:.0f} s."
            ) from None
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        tail = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise UserError(
            f"{name}: the compiler for TPU ended with code {done.returncode}:\n{tail}\n"
            f"If a package is missing: {SET_UP}"
        ) from None
    if not answer["ok"]:
        raise UserError(_explain(name, topology, answer))
    own_results = max(answer["output_bytes"] - answer["alias_bytes"], 0)
    used = own_results + sum(answer[f"{x}_bytes"] for x in ("argument", "temporary", "code"))
    kept = {k: answer[k] for k in ("compile_seconds", "flops")}
    collectives, temporary = tuple(answer["collectives"]), answer["temporary_bytes"]
    return Compiled(name, used=used, temporary=temporary, collectives=collectives, **kept)


def _explain(name: str, topology: Topology, answer: dict) -> str:
    if answer["stage"] == "topology":
        return f"libtpu does not know the topology {topology.name}: {answer['message']}"
    lines = [f"{name} does not compile for {topology.name}: {answer['message']}"]
    if answer["allocations"]:
        lines += ["largest allocations:"] + [f"  {line}" for line in answer["allocations"]]
        lines += ["Use more or larger chips, a smaller sub_batch, or bfloat16."]
    elif answer["operations"]:
        lines += [f"operation: {', '.join(answer['operations'])}"]
    return "\n".join(lines)


def check_compile(topology: Topology, run: Iterable[Compiled]) -> Section:
    """The `programs` of a run, as they are compiled for all chips of a topology."""
    title = f"Compiled for {topology.name}: {topology.n_chips} chips, one replica each"
    with Section(title) as section:
        for compiled in run:
            free = topology.device.memory - compiled.used
            section.add(
                compiled.name,
                f"HBM {binary(compiled.used)} used, {binary(free)} free per chip; "
                f"{decimal(compiled.flops)}FLOP (loop bodies once); in "
                f"{compiled.compile_seconds:.0f} s",
            )
            once = [c["bytes"] for c in compiled.collectives if not c["in_loop"]]
            looped = [c["bytes"] for c in compiled.collectives if c["in_loop"]]
            section.add(
                "  collectives",
                f"{len(once)} of {binary(sum(once))} a step, and {len(looped)} in loops of "
                f"{binary(sum(looped))} a turn",
            )
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
    python, n = python_of(environment), topology.n_chips
    if parts.spec.policy != "uniform":
        hlo = _in_child(lower.lower_selection, config, n)
        yield compile_hlo("selection", hlo, topology, python)
    for plan in parts.schedule.plans():
        name = "train step " + " + ".join(str(part.at.resolution) for part in plan.train)
        hlo = _in_child(lower.lower_train_step, config, n, plan, reference_config)
        yield compile_hlo(name, hlo, topology, python)


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
