"""Writes the bundle: compiled programs, recipes of their inputs, and what a CPU makes of them."""

import functools
import json
import multiprocessing
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import tensorflow as tf

from benchmarks.accelerator import programs, run
from benchmarks.accelerator.programs import Program
from jest_tf.errors import UserError
from jest_tf.preflight.compiling import python_of

HERE = pathlib.Path(__file__).parent
MAX_BYTES = 60_000_000


def export(folder: pathlib.Path, tiny: bool = False, max_expected_rows: int = 40_960) -> list[dict]:
    """The bundle in `folder`; returns what programs.json holds. tiny: sizes of the tests.

    max_expected_rows: larger super-batches are not selected from on this CPU.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write = functools.partial(written, folder, max_expected_rows)
    if tiny:
        described = list(map(write, wanted(tiny)))
    else:  # A process each: TensorFlow keeps the memory of a lowered program, up to 4 GB.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as pool:
            described = list(pool.map(write, wanted(tiny)))
    (folder / "programs.json").write_text(json.dumps(described, indent=1))
    for name in ("run.py", "torch_side.py"):
        shutil.copy(HERE / name, folder / name)
    size = sum(file.stat().st_size for file in folder.iterdir())
    if size > MAX_BYTES:
        raise UserError(f"{folder} has {size:,} bytes; expected at most {MAX_BYTES:,}")
    return described


def wanted(tiny: bool) -> Iterator[Callable[[], Program]]:
    """What makes each program."""
    if tiny:
        yield functools.partial(programs.selection, 256, 64, "sigmoid", 16)
        yield functools.partial(programs.train_step, "jest", "S", 16, tiny=True)
        return
    for loss in ("sigmoid", "softmax"):
        for super_batch, sub_batch in programs.SELECTIONS:
            yield functools.partial(programs.selection, super_batch, sub_batch, loss)
    # Steps are checked at a size that a CPU can follow, and timed at those that matter.
    for kind in programs.STEPS:
        yield functools.partial(programs.train_step, kind, "S", 16, tiny=True)
    for variant, batches in (("S", (256, 1024)), ("B", (128, 512))):
        for sub_batch in batches:
            for kind in programs.STEPS:
                yield functools.partial(programs.train_step, kind, variant, sub_batch)


def written(folder: pathlib.Path, max_expected_rows: int, make: Callable[[], Program]) -> dict:
    """Lowers the program that `make` makes, packs it, and describes it."""
    program = make()
    recipe = {name: how(name, spec, i) for i, (name, spec) in enumerate(program.inputs.items())}
    is_small = program.sizes["B"] <= max_expected_rows and not _is_large_step(program)
    made = run.arrays(recipe) if is_small else {}
    compiled = tf.function(program.run, jit_compile=True, autograph=False)
    concrete = compiled.get_concrete_function(**program.inputs)
    held = {id(v.handle): (f"weight_{i}", v) for i, v in enumerate(program.variables)}
    # The order of XLA's parameters: the arguments by name, then what the function captures.
    captured = [held[id(outer)] for outer, _ in concrete.graph.captures]
    arguments = sorted(program.inputs)
    hlo = compiled.experimental_get_compiler_ir(**program.inputs)(stage="hlo_serialized")
    file = f"{program.name}.stablehlo"
    signature = packed(hlo, folder / file)
    names = [*arguments, *(name for name, _ in captured)]
    shapes = [program.inputs[n].shape.as_list() for n in arguments]
    shapes += [variable.shape.as_list() for _, variable in captured]
    if [given["shape"] for given in signature["types"]] != shapes:
        raise UserError(f"{program.name}: the lowered program has other parameters than {names}")
    expected = stored = None
    if is_small:
        if captured:  # before the program runs: it trains them
            stored = f"{program.name}.weights.npz"
            np.savez_compressed(folder / stored, **{name: v.numpy() for name, v in captured})
        expected = f"{program.name}.expected.npz"
        outputs = concrete(**{n: tf.constant(a) for n, a in made.items()})
        picks, number = (value.numpy() for _, value in sorted(outputs.items(), reverse=True))
        if picks.ndim == 0:
            picks, number = number, picks
        np.savez_compressed(folder / expected, picks=picks, number=number)
    else:
        recipe |= {name: like(v.numpy(), i) for i, (name, v) in enumerate(captured)}
    return {
        "name": program.name, "file": file, "sizes": program.sizes, "flops": program.flops,
        "inputs": recipe, "parameters": names, "weights": stored, "expected": expected,
        "outputs": sorted(concrete.structured_outputs), **signature,
    }  # fmt: skip


def _is_large_step(program: Program) -> bool:
    return sum(v.shape.num_elements() for v in program.variables) > 1_000_000


def how(name: str, spec: tf.TensorSpec, seed: int) -> dict:
    """The recipe of one input."""
    told = {"seed": seed, "shape": spec.shape.as_list(), "dtype": spec.dtype.name}
    if name.endswith("_img"):
        return told | {"kind": "unit"}
    if name.endswith("_txt"):
        return told | {"kind": "unit", "near": name.replace("_txt", "_img")}
    if name in ("image", "tokens"):
        low, high = (0, 256) if name == "image" else (1, 100)
        return told | {"kind": "integers", "low": low, "high": high}
    if name == "id":
        return told | {"kind": "range"}
    # Two models of one scale would leave a joint score of rounding alone.
    value = {"valid": 1, "seed": 7, "reference_scale": 12.0}.get(
        name, 10.0 if name.endswith("scale") else -10.0
    )
    return told | {"kind": "constant", "value": value}


def like(value: np.ndarray, seed: int) -> dict:
    """Weights of the same mean and deviation, as a recipe: they need no place in the bundle."""
    return {
        "kind": "normal", "seed": 1000 + seed, "shape": list(value.shape),
        "dtype": str(value.dtype), "mean": float(value.mean()), "std": float(value.std()),
    }  # fmt: skip


def packed(hlo: bytes, out: pathlib.Path) -> dict[str, list[dict]]:
    """Runs `pack` in the environment that also compiles for TPU; returns the signature."""
    source = out.with_suffix(".hlo")
    source.write_bytes(hlo)
    python = python_of(os.environ.get("JEST_TPU_COMPILE_ENV", ".venv-tpu-compile"))
    command = [python, str(HERE / "pack.py"), str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    source.unlink()
    if done.returncode:
        raise UserError(
            f"{out.name} could not be packed by {python}:\n"
            + "\n".join(done.stderr.strip().splitlines()[-5:])
        )
    return json.loads(done.stdout.strip().splitlines()[-1])
