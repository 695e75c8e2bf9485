"""Interleaved timing, and memory measured in a process of its own.

python -m benchmarks.timing    # tries the measure of memory on 200 MiB
"""

import ctypes
import gc
import itertools
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
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


def resident_bytes(field: str = "VmRSS", pid: int | str = "self") -> int:
    """A process's resident memory (VmRSS), its peak (VmHWM) or address space (VmSize), Linux."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def peak_extra_bytes(program: Callable[[], object]) -> int:
    """How far resident memory rises above its present value while `program` runs, Linux.

    What the process holds unused would take in the growth unseen, so it goes first: the C library
    gives it back, and TensorFlow's allocator, which never does, has it filled. What XLA takes to
    compile is included.
    """
    gc.collect()
    filling = _fill_free_memory()
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # Resets the peak to the present.
    before = resident_bytes()
    wait(program())
    peak = resident_bytes("VmHWM") - before
    del filling  # It had to live until here.
    return peak


def _fill_free_memory() -> list[tf.Tensor]:
    """Tensors of 1 MiB in all that TensorFlow's allocator for the host holds free.

    It is full when it has to ask the system for address space.
    """
    filling = [tf.zeros([2**20], tf.uint8)]
    mapped = resident_bytes("VmSize")
    while resident_bytes("VmSize") == mapped:
        filling.append(tf.zeros([2**20], tf.uint8))
    return filling


def main() -> None:
    """Also where as much was freed just before, and could be used again unseen."""
    planted = {
        "numpy": lambda: np.ones(50 * 2**20, np.float32).sum(),
        "tensor": lambda: tf.reduce_sum(tf.fill([50 * 2**20], 1.0)),
    }
    for (freed, before), (name, program) in itertools.product(planted.items(), repeat=2):
        before()
        seen = peak_extra_bytes(program) / 2**20
        print(f"{name} after {freed}: 200 MiB were used, {seen:.0f} seen")


if __name__ == "__main__":
    main()
