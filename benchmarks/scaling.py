"""Tables of docs/scaling.md: what a step of the paper's configs costs on 8, 64 and 256 chips.

    python -m benchmarks.scaling                               # writes the tables anew
    python -m benchmarks.scaling --compile=jest_b16@v5p:4x4x8  # compiles, keeps the result

Formulas give all of it but the column `compiled`, which holds what `--compile` has found so far
(benchmarks/measured/scaling_compiled.json).
"""

import importlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import ml_collections
import pandas as pd
from absl import flags

from benchmarks import generated
from benchmarks.figures import MEASURED
from jest_tf import cli
from jest_tf.devices import GIB, TPUS, Device, Topology, parse_topology
from jest_tf.errors import UserError

CONFIGS = ("siglip_b16", "jest_b16", "flexi_jest_b16")
SLICES = ("v5e:2x4", "v5e:8x8", "v5e:16x16", "v5p:2x2x2", "v5p:4x4x4", "v5p:4x8x8")

FLAGS = flags.FlagValues()
_COMPILE = flags.DEFINE_list(
    "compile", [], "Programs to compile first: CONFIG@TOPOLOGY, …", flag_values=FLAGS
)
_ENV = flags.DEFINE_string(
    "tpu_compile_env", os.environ.get("JEST_TPU_COMPILE_ENV", ".venv-tpu-compile"),
    "The environment that launch/tpu_compile_env.sh made.", flag_values=FLAGS,
)  # fmt: skip
_MFU = flags.DEFINE_float(
    "mfu", 0.4, "Share of the peak that a step is assumed to reach.", flag_values=FLAGS
)
_IMAGES_PER_CORE = flags.DEFINE_float(
    "images_per_core", 500, "Images that one host core decodes a second.", flag_values=FLAGS
)
_DOC = flags.DEFINE_string("doc", "docs/scaling.md", "The page to write.", flag_values=FLAGS)


class Row(NamedTuple):
    """One config on one slice; bytes and FLOPs of one chip, rates of one host."""

    topology: Topology
    scored: int
    trained: int
    memory: float
    flops: float
    seconds: float
    link_bytes: float
    images_per_second: float


def main(argv: list[str]) -> None:
    """Compiles what is asked for, then writes the tables into the page."""
    del argv
    path = str(MEASURED / "scaling_compiled.json")
    for item in _COMPILE.value:
        keep(path, *compile_one(item, _ENV.value))
    compiled = read(path)
    rows, page = cost_rows(compiled, _MFU.value, _IMAGES_PER_CORE.value), pathlib.Path(_DOC.value)
    generated.fill(page, "tables", "\n".join(["", *cost_tables(rows), *fit_table(), "", ""]))
    pd.DataFrame(rows).to_csv(page.with_suffix(".csv"), index=False, lineterminator="\n")


def row(config: ml_collections.ConfigDict, topology: Topology, mfu: float) -> Row:
    """What a step of `config` asks of each chip and host of a slice."""
    from benchmarks import traffic
    from jest_tf.preflight import cost
    from jest_tf.training.assemble import parts_of

    n = topology.n_chips
    parts = parts_of(config, n)
    plan = parts.schedule.plan(0)
    flops = cost.step_cost(config, parts, plan, n).total_flops / n
    kept = sum(cost.persistent(config, parts, n).values())
    found = traffic.exchanges(config, parts, plan, n)
    seconds = flops / topology.device.flops / mfu
    return Row(
        topology=topology,
        scored=config.selection.super_batch // n,
        trained=config.selection.sub_batch // n,
        memory=kept + max(cost.transient(config, parts, plan, n).values()),
        flops=flops,
        seconds=seconds,
        link_bytes=traffic.link_bytes(found, n),
        images_per_second=config.selection.super_batch / topology.n_hosts / seconds,
    )


def cost_rows(compiled: dict, mfu: float, images_per_core: float) -> list[dict[str, str]]:
    """Every number of every config on every slice, as text."""
    rows = []
    for name in CONFIGS:
        config = importlib.import_module(f"configs.{name}").get_config()
        known = compiled.get(name, {})
        for text in [*SLICES, *(t for t in known if t not in SLICES)]:
            r = row(config, parse_topology(text), mfu)
            device, t, result = r.topology.device, r.topology, known.get(text)
            rows.append(
                {
                    "config": name,
                    "slice": t.name,
                    "chips": f"{t.n_chips}",
                    "hosts": f"{t.n_hosts}",
                    "scored / trained per chip": f"{r.scored:,} / {r.trained:,}",
                    "HBM GiB: estimate of available": f"{r.memory / GIB:.3g} of "
                    f"{device.memory / GIB:.4g}",
                    "compiled: HBM GiB, TFLOP": _compiled(result),
                    "TFLOP per chip": f"{r.flops / 1e12:.3g}",
                    f"s a step at {mfu:.0%} of peak": f"{r.seconds:.3g}",
                    "GB sent per chip": f"{r.link_bytes / 1e9:.3g}",
                    "s at link speed": f"{r.link_bytes / device.link_bandwidth:.2g}",
                    "images/s per host": f"{r.images_per_second:,.0f}",
                    "cores per host": f"{r.images_per_second / images_per_core:,.0f}",
                    "breaks first": limit(r, result, images_per_core),
                }
            )
    return rows


def cost_tables(rows: list[dict[str, str]]) -> Iterator[str]:
    """A table of seven columns for each config; the others are in the CSV file."""
    hidden = {"config", "chips", "hosts", "TFLOP per chip", "GB sent per chip", "s at link speed",
              "images/s per host"}  # fmt: skip
    columns = [name for name in rows[0] if name not in hidden]
    for name, of_config in itertools.groupby(rows, lambda one: one["config"]):
        s = importlib.import_module(f"configs.{name}").get_config().selection
        yield f"### {name}: B = {s.super_batch:,}, b = {s.sub_batch:,}\n"
        yield f"| {' | '.join(columns)} |"
        yield "|" + "---|" * len(columns)
        yield from (f"| {' | '.join(one[c] for c in columns)} |" for one in of_config)
        yield ""


def _compiled(result: dict | None) -> str:
    return f"{result['used'] / GIB:.3g}, {result['flops'] / 1e12:.3g}" if result else ""


def limit(r: Row, compiled: dict | None, images_per_core: float) -> str:
    """What stops or slows this layout first."""
    device = r.topology.device
    used = compiled["used"] if compiled else r.memory
    if used > device.memory:
        return "memory: does not fit" + ("" if compiled else ", by the estimate")
    cores = r.images_per_second / images_per_core
    waits = {
        "input": cores / HOST_CORES[device.name],
        "links": r.link_bytes / device.link_bandwidth / r.seconds,
    }
    name = max(waits, key=waits.get)
    return f"{name}, at {waits[name]:.0%} of what there is"


# vCPUs of a TPU VM of a multi-host slice, from Google Cloud's machine types; unverified here.
HOST_CORES = {"v4": 240, "v5e": 112, "v5p": 208, "v6e": 180}


def fit_table() -> Iterator[str]:
    """Examples trained per chip that fit, by model and device, each with five scored."""
    yield "### Examples trained per chip that fit (estimate), with five times as many scored\n"
    yield "| model, 256 px, patch 16, 64 tokens | " + " | ".join(TPUS) + " |"
    yield "|" + "---|" * (len(TPUS) + 1)
    for variant, recompute in itertools.product(("S", "B", "L"), (False, True)):
        cells = [f"{largest(variant, recompute, device):,}" for device in TPUS.values()]
        name = f"{variant}/16, recompute" if recompute else f"{variant}/16"
        yield f"| {name} | " + " | ".join(cells) + " |"


def largest(variant: str, recompute: bool, device: Device, name: str = "jest_b16") -> int:
    """The largest power of two of trained examples on one chip that leaves the usual room.

    With `strategy.recompute`, scoring takes no more examples at a time than training.
    """
    from jest_tf.preflight.cost import ROOM, persistent, transient
    from jest_tf.training.assemble import parts_of

    fits, n, module = 0, 16, importlib.import_module(f"jest_tf.configs.{name}")
    while True:
        config = module.get_config(f"sub_batch={n}")
        config.model.variant = variant
        if recompute:
            config.strategy.recompute, config.strategy.micro_batch = True, n
        parts = parts_of(config, 1)
        plan = parts.schedule.plan(0)
        peak = sum(persistent(config, parts, 1).values())
        peak += max(transient(config, parts, plan, 1, device.tile_values).values())
        if peak > ROOM * device.memory:
            return fits
        fits, n = n, 2 * n


def compile_one(item: str, environment: str) -> tuple[str, str, dict]:
    """(config, slice, result) of `CONFIG@TOPOLOGY`: the train step, compiled."""
    from jest_tf.preflight.compiling import programs
    from jest_tf.training.assemble import parts_of

    name, _, text = item.partition("@")
    if name not in CONFIGS:
        raise UserError(f"--compile={item}: expected CONFIG@TOPOLOGY with one of {CONFIGS}.")
    topology = parse_topology(text)
    config = importlib.import_module(f"configs.{name}").get_config()
    parts = parts_of(config, topology.n_chips)
    *_, step = programs(config, parts, topology, environment)
    result = {"used": step.used, "flops": step.flops, "seconds": round(step.compile_seconds)}
    return name, topology.name, result


def read(path: str) -> dict:
    """Config -> slice -> result, of all that was ever compiled."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def keep(path: str, name: str, topology: str, result: dict) -> None:
    """Adds one result."""
    results = read(path)
    results.setdefault(name, {})[topology] = result
    with open(path, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    cli.run(main, FLAGS)
