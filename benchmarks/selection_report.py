"""The measured part of docs/selection.md, from the lines that `benchmarks.selection` keeps."""

import importlib.metadata
import pathlib
from collections.abc import Iterable

from benchmarks import figures, generated
from jest_tf.errors import UserError

RESULTS = str(figures.MEASURED / "selection.jsonl")
PAGE = figures.DOCS / "selection.md"
SECTION = "measured"
# What a reader asks first: is it fast, is it small, does it matter in a step?
SHOWN = (
    "dense_speedup_sigmoid",
    "dense_speedup_softmax",
    "vs_torch_listing",
    "over_floor",
    "peak_memory_share",
    "step_share_measured",
    "paper_scale_seconds",
    "growth_N",
)
CASE = (
    "super_batch",
    "sub_batch",
    "n_chunks",
    "d",
    "loss",
    "replicas",
    "model",
    "cases",
    "columns",
)


def keep(path: str, line: dict) -> None:
    """Puts a line into the file in place of an earlier one of the same figure and case."""
    line = line | figures.made_here() | {"tensorflow": importlib.metadata.version("tensorflow")}
    others = [other for other in read(path) if _case(other) != _case(line)]
    figures.write(pathlib.Path(path), [*others, line])


def read(path: str) -> list[dict]:
    """All lines of the file; none if it is not there yet."""
    return figures.read(pathlib.Path(path))


def write(path: str, page: pathlib.Path = PAGE) -> None:
    """Fills the marked section of the page.

    Raises:
      UserError: the page has no such section, or there are no lines.
    """
    lines = read(path)
    if not lines:
        raise UserError(f"--results={path} holds no lines; run the benchmark without --write_docs")
    generated.fill(page, SECTION, f"\n{table(lines)}\n\n")


def table(lines: Iterable[dict]) -> str:
    """A row per figure of SHOWN, on the most devices; then where and when all were measured."""
    rows = [
        "| figure | case | value | goal | from |",
        "|---|---|---|---|---|",
    ]
    lines = sorted(lines, key=lambda line: (line["figure"], str(_case(line))))
    for line in {line["figure"]: line for line in lines if line["figure"] in SHOWN}.values():
        value = "not measured" if line["value"] is None else f"{line['value']:.4g} {line['unit']}"
        rows.append(
            f"| `{line['figure']}` | {_described(line['context'])} | {value} | {line['goal']} "
            f"| {_ratio(line)} |"
        )
    return "\n".join([*rows, "", figures.made(lines, pathlib.Path(RESULTS))])


def _case(line: dict) -> tuple:
    context = line["context"]
    return line["figure"], *(str(context.get(key, "")) for key in CASE)


def _described(context: dict) -> str:
    names = {"super_batch": "B", "sub_batch": "b", "n_chunks": "N", "d": "d"}
    parts = [f"{short} {context[key]:,}" for key, short in names.items() if key in context]
    parts += [str(context[key]) for key in ("loss", "model") if key in context]
    if "columns" in context:
        parts.append(f"{context['columns']} columns")
    if "cases" in context:
        ends = ["/".join(f"{size:,}" for size in context["cases"][i]) for i in (0, -1)]
        parts.append(f"B/b/N/d {ends[0]} to {ends[1]}")
    if "replicas" in context:
        parts.append(f"{context['replicas']} device{'s' if context['replicas'] > 1 else ''}")
    return ", ".join(parts)


def _ratio(line: dict) -> str:
    if "numerator" not in line:
        return ""
    return f"{line['numerator']:.4g} / {line['denominator']:.4g}"
