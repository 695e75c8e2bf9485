"""Runs the programs of this bundle on the device that jax finds, and prints a JSON line for each.

    python run.py [--only WORD] [--repeats 10] > lines.jsonl

The last lines are ratios: selection's share of a step, JEST and Flexi-JEST over plain, PyTorch.

Needs Python, numpy and jax; torch, if it is there, runs the dense listing and a plain train step
of the same sizes. Nothing outside the folder is read.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
# bfloat16 multiply-adds at peak, dense, as published by the makers; by a part of the device's name.
PEAK_FLOPS = {
    "H200": 989e12, "H100": 989e12, "A100": 312e12, "L4": 121e12, "V100": 125e12,
    "v6": 918e12, "v5p": 459e12, "v5e": 197e12, "v5 lite": 197e12, "v4": 275e12,
}  # fmt: skip
# Another device sums in another order: a near-tie falls otherwise, and later chunks follow it.
MIN_SAME_PICKS, SCORE_RTOL, LOSS_RTOL = 0.99, 1e-2, 2e-2

# What the lines come to, and what was hoped for.
GOALS = (
    ("selection of B = 10,240, share of a JEST step at B/16, b = 512", "<= 2%"),
    ("selection of B = 40,960, times faster than the dense listing in PyTorch", ">= 20"),
    ("selection at B = 163,840, b = 32,768, seconds", "< 1"),
    ("selection at B = 163,840, b = 32,768, GiB of the program", "< 8"),
    ("plain step at B/16, b = 512, images a second over PyTorch's", ">= 0.9"),
    ("JEST over plain, time ratio over FLOP ratio", "0.9 to 1.1"),
    ("Flexi-JEST over plain, time ratio over FLOP ratio", "0.9 to 1.1"),
)


def arrays(recipe: dict[str, dict]) -> dict[str, np.ndarray]:
    """Inputs from their recipes; numpy keeps the streams of RandomState for good."""
    made = {}
    for name, how in recipe.items():
        rng, shape, dtype = np.random.RandomState(how["seed"]), how["shape"], how["dtype"]
        kind = how["kind"]
        if kind == "unit":  # rows of unit norm, near those of `near` if that is given
            rows = rng.standard_normal(shape).astype(np.float32)
            if near := how.get("near"):
                rows = 0.2 * rows / np.sqrt(shape[1]) + made[near]
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            made[name] = rows.astype(dtype)
        elif kind == "integers":
            made[name] = rng.randint(how["low"], how["high"], shape).astype(dtype)
        elif kind == "range":
            made[name] = np.arange(shape[0]).astype(dtype)
        elif kind == "normal":
            drawn = rng.standard_normal(shape) if how["std"] else np.zeros(shape)
            made[name] = (how["mean"] + how["std"] * drawn).astype(dtype)
        else:
            made[name] = np.full(shape, how["value"]).astype(dtype)
    return made


def main(argv: list[str]) -> int:
    """Prints the lines; returns 1 if one of them does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="programs whose name holds this")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args(argv)
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")  # no other program is there
    of_torch = torch_lines(args.only, args.repeats)
    import jax

    jax.config.update("jax_enable_x64", True)  # ids are 64-bit
    device = jax.devices()[0]
    about = {
        "device": device.device_kind, "platform": device.platform, "jax": jax.__version__,
        "host": platform.machine(), "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }  # fmt: skip
    lines = {line["name"]: line for line in of_torch}
    for line in of_torch:
        print(json.dumps(line | about), flush=True)
    programs = json.loads((HERE / "programs.json").read_text())
    all_hold = True
    for program in programs:
        if args.only not in program["name"]:
            continue
        try:
            line = measured(jax, device, program, args.repeats)
        except Exception as error:  # out of memory on a small device: the others still run
            line = {"holds": False, "error": f"{type(error).__name__}: {str(error)[:300]}"}
        all_hold &= line["holds"]
        lines[program["name"]] = line
        print(
            json.dumps({"name": program["name"], **program["sizes"], **line, **about}), flush=True
        )
    for (figure, goal), value in zip(GOALS, figures(lines), strict=True):
        if value is not None:
            print(json.dumps({"figure": figure, "value": value, "goal": goal, **about}))
    return 0 if all_hold else 1


def measured(jax, device, program: dict, repeats: int) -> dict:
    """Compiles, runs, compares, times."""
    call = jax.jit(callable_of(jax, program))
    made = arrays(program["inputs"])
    if program["weights"]:
        with np.load(HERE / program["weights"]) as stored:
            made |= {name: stored[name] for name in stored.files}
    given = [jax.device_put(made[name], device) for name in program["parameters"]]
    started = time.perf_counter()
    compiled = call.lower(*given).compile()
    compile_seconds = time.perf_counter() - started
    outputs = compiled(*given)
    found = dict(zip(program["outputs"], map(np.asarray, outputs), strict=False))
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(compiled(*given))
        seconds.append(time.perf_counter() - started)
    best = float(np.median(seconds))
    memory = compiled.memory_analysis()
    peak = next((v for k, v in PEAK_FLOPS.items() if k in device.device_kind), None)
    return {
        "seconds": best,
        "compile_seconds": compile_seconds,
        "program_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "flops_per_second": program["flops"] / best,
        "share_of_peak": program["flops"] / best / peak if peak else None,
        **agreement(program, found),
    }


def callable_of(jax, program: dict):
    """The stored program as a function of arrays.

    A program of the same signature lends its description, and ours takes the place of its code.
    """
    from jax import export

    types, results = (
        [jax.ShapeDtypeStruct(tuple(t["shape"]), t["dtype"]) for t in program[name]]
        for name in ("types", "results")
    )
    shell = jax.jit(
        lambda *given: [jax.numpy.zeros(r.shape, r.dtype) for r in results], keep_unused=True
    )
    code = (HERE / program["file"]).read_bytes()
    return dataclasses.replace(export.export(shell)(*types), mlir_module_serialized=code).call


def agreement(program: dict, found: dict) -> dict:
    """How the outputs compare with those of the CPU, where they were computed."""
    picks = found["positions"] if "positions" in found else found["ids"]
    b, n = program["sizes"]["b"], program["sizes"]["B"]
    distinct = len(np.unique(picks)) == b and picks.min() >= 0 and picks.max() < n
    number, tolerance = (
        ("joint_score", SCORE_RTOL) if "joint_score" in found else ("loss", LOSS_RTOL)
    )
    holds = bool(distinct and np.isfinite(found[number]))
    told = {"picks_distinct": bool(distinct), "checked": "distinct picks, finite output"}
    if expected := program["expected"]:
        with np.load(HERE / expected) as file:
            same = len(np.intersect1d(picks, file["picks"])) / b
            off = abs(float(found[number]) - float(file["number"])) / abs(float(file["number"]))
        told |= {"same_picks": same, f"{number}_off": off, "checked": "against TensorFlow on CPU"}
        holds = holds and same >= MIN_SAME_PICKS and off <= tolerance
    return told | {"holds": holds}


def torch_lines(only: str, repeats: int) -> list[dict]:
    """The dense listing and a plain step in PyTorch, where it is installed.

    In a process of its own, before jax starts: each takes the device's memory and keeps it.
    """
    command = [sys.executable, str(HERE / "torch_side.py"), only, str(repeats)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def figures(lines: dict[str, dict]) -> list[float | None]:
    """The values of GOALS, None where a line is missing."""

    def of(name: str, field: str = "seconds") -> float | None:
        return lines.get(name, {}).get(field)

    def ratio(one: float | None, other: float | None) -> float | None:
        return one / other if one and other else None

    def flops(name: str) -> float | None:
        return ratio(of(name, "flops_per_second"), 1) and of(name, "flops_per_second") * of(name)

    def over_flops(kind: str) -> float | None:
        mine, plain = f"step-{kind}-B16-512", "step-plain-B16-512"
        return ratio(ratio(of(mine), of(plain)), ratio(flops(mine), flops(plain)))

    # The selection of B = 10,240 stands for that of a step at b = 512, which is smaller.
    sizes = (10_240, 40_960, 163_840)
    small, middle, large = (f"selection-sigmoid-{n}" for n in sizes)
    share = ratio(of(small), of("step-jest-B16-512"))
    memory = of(large, "program_bytes")
    return [
        share and 100 * share,
        ratio(of(f"torch-{middle}"), of(middle)),
        of(large),
        memory and memory / 2**30,
        ratio(of("torch-step-plain-B16-512"), of("step-plain-B16-512")),
        over_flops("jest"),
        over_flops("flexi"),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
