"""The measured part of docs/selection.md, from the lines that `jest_tf.bench.selection` keeps."""

import datetime
import json
import pathlib
from collections.abc import Iterable

from jest_tf.errors import UserError
from jest_tf.monitoring import environment

DOCS = pathlib.Path(__file__).parents[2] / "docs"
RESULTS = str(DOCS / "selection_measured.jsonl")
PAGE = DOCS / "selection.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
CASE = ("super_batch", "sub_batch", "n_chunks", "d", "loss", "replicas", "model", "cases")


def keep(path: str, line: dict) -> None:
    """Puts a line into the file in place of an earlier one of the same figure and case."""
    made = environment.collect()
    line = line | {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{made['n_cpus']} cores of {made['cpu']}",
        "tensorflow": made["packages"]["tensorflow"],
    }
    others = [other for other in read(path) if _case(other) != _case(line)]
    text = "".join(json.dumps(other) + "\n" for other in [*others, line])
    pathlib.Path(path).write_text(text)


def read(path: str) -> list[dict]:
    """All lines of the file; none if it is not there yet."""
    file = pathlib.Path(path)
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def write(path: str, page: pathlib.Path = PAGE) -> None:
    """Fills the marked section of the page.

    Raises:
      UserError: the page has no such section, or there are no lines.
    """
    lines = read(path)
    if not lines:
        raise UserError(f"--results={path} holds no lines; run the benchmark without --write_docs")
    text = page.read_text()
    if not 0 <= text.find(BEGIN) < text.find(END):
        raise UserError(f"{page} has no section between {BEGIN} and {END}; put the two lines in")
    before, rest = text.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{table(lines)}\n\n{END}{rest.split(END)[1]}")


def table(lines: Iterable[dict]) -> str:
    """A row per line, by figure; then where and when they were measured."""
    rows = [
        "| figure | case | value | goal | from |",
        "|---|---|---|---|---|",
    ]
    lines = sorted(lines, key=lambda line: (line["figure"], str(_case(line))))
    for line in lines:
        value = "not measured" if line["value"] is None else f"{line['value']:.4g} {line['unit']}"
        rows.append(
            f"| `{line['figure']}` | {_described(line['context'])} | {value} | {line['goal']} "
            f"| {_ratio(line)} |"
        )
    made = sorted({(line["date"], line["hardware"], line["tensorflow"]) for line in lines})
    where = "; ".join(f"{date}: {cpu}, TensorFlow {version}" for date, cpu, version in made)
    return "\n".join([*rows, "", f"Measured on {where}."])


def _case(line: dict) -> tuple:
    context = line["context"]
    return line["figure"], *(str(context.get(key, "")) for key in CASE)


def _described(context: dict) -> str:
    names = {"super_batch": "B", "sub_batch": "b", "n_chunks": "N", "d": "d"}
    parts = [f"{short} {context[key]:,}" for key, short in names.items() if key in context]
    parts += [str(context[key]) for key in ("loss", "model") if key in context]
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
