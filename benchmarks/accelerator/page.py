"""docs/accelerators.md, from the lines that run.py printed on each device."""

import json
import pathlib

from benchmarks.accelerator.run import GOALS, figures

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "accelerators.md"
# Lines of runs on accelerators; `page --lines=` adds to them.
KEPT = pathlib.Path(__file__).parents[1] / "measured" / "accelerators.jsonl"
NOT_MEASURED = "not measured"
HEAD = """# How fast is it on a GPU or a TPU?

`python -m benchmarks.accelerator page` writes this page from measured lines. To add a device:

    ./launch/tpu_compile_env.sh                                 # jax, to pack the programs
    python -m benchmarks.accelerator export --out=bundle        # < 60 MB
    scp -r bundle MACHINE: && ssh MACHINE 'pip install jax; python bundle/run.py' > lines.jsonl
    python -m benchmarks.accelerator page --lines=lines.jsonl

The bundle holds our compiled programs as StableHLO: joint selection for both losses, and whole
train steps (plain, JEST, Flexi-JEST) of S/16 and B/16 in bfloat16. `run.py` needs numpy and jax.
It compares small programs, and selections up to B = 40,960, with what TensorFlow computed on a CPU.
At least 99% of the selected examples must be the same: another device sums in another order, so
near-ties fall otherwise. `export --max_expected_rows=163840` computes the largest selections too.
The joint score must agree to 1%, the loss to 2%. Of large programs it checks that the selected
examples are distinct and the loss is finite. Seconds are medians of ten calls after the first.
Where torch is installed, it also times the paper's dense listing and a plain compiled SigLIP step.

This measures the programs on one device. It says nothing about exchanges between devices, or about
reading data; TensorFlow itself did not run on the device.
`tests/training/test_several_gpus.py` counts launches and exchanges in the graph.

The dense listing needs two matrices of B x B. Joint selection computes four of B x b, all in full
float32: at b = B/5 that is 2.5 times fewer products, and memory for B = 163,840 on one device. So
where arithmetic is the limit, the goal of 20 times is out of reach at equal precision. A program of
the bundle that has no line below was not run.
"""


def stored() -> list[pathlib.Path]:
    """The files whose lines the page shows."""
    return [KEPT] if KEPT.exists() else []


def keep(files: list[pathlib.Path]) -> None:
    """Adds the lines of these files to those of the page."""
    for file in files:
        with KEPT.open("a", encoding="utf-8") as kept:
            kept.write(file.read_text(encoding="utf-8"))


def page(files: list[pathlib.Path]) -> str:
    """The whole page; without lines, every figure is NOT_MEASURED."""
    lines = [json.loads(line) for f in files for line in f.read_text().splitlines() if line.strip()]
    lines = [line for line in lines if "name" in line]  # figures follow from the others
    devices = sorted({line["device"] for line in lines if line["platform"] != "cpu"})
    parts = [HEAD, "## What was measured?\n"]
    parts += [section(d, [x for x in lines if x["device"] == d]) for d in devices]
    if not devices:
        rows = "\n".join(f"| {name} | {goal} | {NOT_MEASURED} |" for name, goal in GOALS)
        parts.append(
            "No run on an accelerator was made yet.\n\n"
            f"| figure | goal | value |\n|---|---|---|\n{rows}\n"
        )
    return "\n".join(parts)


def section(device: str, lines: list[dict]) -> str:
    """The goals and all programs of one device."""
    by_name = {line["name"]: line for line in lines}
    told = "\n".join(
        f"| {name} | {goal} | {NOT_MEASURED if value is None else f'{value:.3g}'} |"
        for (name, goal), value in zip(GOALS, figures(by_name), strict=True)
    )
    rows = "\n".join(map(_row, lines))
    first = lines[0]
    return (
        f"### {device}\n\nRun on {first['date']} with jax {first['jax']}.\n\n"
        f"| figure | goal | value |\n|---|---|---|\n{told}\n\n"
        "| program | seconds | share of peak | GiB | over `check`'s estimate | checked |\n"
        f"|---|---|---|---|---|---|\n{rows}\n"
    )


def _row(line: dict) -> str:
    gib, over = "-", "-"
    if taken := line.get("program_bytes"):
        gib = f"{taken / 2**30:.3g}"
        if estimated := line.get("estimated_bytes"):
            over = f"{taken / estimated:.2f}x"
    checked = line.get("error") or line.get("checked", "")
    if (same := line.get("same_picks")) is not None:
        checked += f": {same:.1%} the same"
    return (
        f"| {line['name']} | {_shown(line, 'seconds')} | {_shown(line, 'share_of_peak')} "
        f"| {gib} | {over} | {checked} |"
    )


def _shown(line: dict, name: str) -> str:
    return f"{line[name]:.4g}" if line.get(name) is not None else "-"
