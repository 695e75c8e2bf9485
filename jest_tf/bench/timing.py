"""Interleaved timing, and memory measured in a process of its own."""

import ctypes
import gc
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import tensorflow as tf


def fastest(programs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of each program's fastest call.

    Programs take turns, so a machine that is busy for a while slows all of them alike; the fastest
    call is the one that was disturbed least. One call each comes first, to compile.
    """
    best = dict.fromkeys(programs, float("inf"))
    for repeat in range(repeats + 1):
        for name, program in programs.items():
            start = time.perf_counter()
            wait(program())
            if repeat > 0:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def wait(result: object) -> None:
    """Returns when every tensor of `result` has been computed."""
    for leaf in tf.nest.flatten(result):
        if isinstance(leaf, tf.Tensor):
            leaf.numpy()


def in_own_process(module: str, *arguments: str) -> dict:
    """Runs `python -m module arguments` and returns the JSON of its last line.

    Raises:
      RuntimeError: the process failed; the message holds the end of its errors.
    """
    process = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )
    if process.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{process.stderr[-2000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def resident_bytes(field: str = "VmRSS") -> int:
    """This process's resident memory (VmRSS) or its peak (VmHWM), Linux."""
    status = pathlib.Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def peak_extra_bytes(program: Callable[[], object]) -> int:
    """How far resident memory rises above its present value while `program` runs, Linux.

    Call it on a first run: memory that an earlier run has left in TensorFlow's allocators would not
    be seen. What Python and the C library hold unused is given back first. What XLA takes to
    compile is included.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # Resets the peak to the present.
    before = resident_bytes()
    wait(program())
    return resident_bytes("VmHWM") - before
