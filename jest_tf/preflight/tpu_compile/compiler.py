"""Calls the worker in its own environment and reads its answer."""

import dataclasses
import json
import os
import subprocess
import tempfile

from jest_tf.devices import Topology
from jest_tf.errors import UserError

WORKER = os.path.join(os.path.dirname(__file__), "worker.py")
SET_UP = "Make it with launch/tpu_compile_env.sh."


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program as TPU's compiler left it; bytes and operations of one chip.

    used: arguments, results in memory of their own, temporaries, code. flops: a loop's body counts
    once: too low where loops run long. collectives: {op, name, bytes, in_loop} of each.
    """

    name: str
    compile_seconds: float
    used: int
    temporary: int
    flops: float
    collectives: tuple[dict, ...]


def python_of(environment: str) -> str:
    """The interpreter of the environment that compiles for TPU; UserError: it was not set up."""
    python = os.path.join(environment, "bin", "python")
    if not os.access(python, os.X_OK):
        raise UserError(f"no environment that compiles for TPU at {environment}. {SET_UP}")
    return python


def compile_hlo(
    name: str, hlo: bytes, topology: Topology, python: str, timeout: float = 3600
) -> Compiled:
    """Compiles the HLO of a program for all chips of a slice.

    UserError: the compiler refuses it (which operation or allocations), does not know the topology,
    or is not installed.
    """
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
    return Compiled(
        name=name,
        compile_seconds=answer["compile_seconds"],
        used=answer["argument_bytes"]
        + max(answer["output_bytes"] - answer["alias_bytes"], 0)
        + answer["temporary_bytes"]
        + answer["code_bytes"],
        temporary=answer["temporary_bytes"],
        flops=answer["flops"],
        collectives=tuple(answer["collectives"]),
    )


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
