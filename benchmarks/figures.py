"""Measured figures: JSON lines that are printed, and kept in files from which pages are written.

A line is {figure, value, goal, unit, numerator, denominator, repeats, context, …}; a kept one also
says when and on what it was measured.
"""

import json
import pathlib
from collections.abc import Iterable
from typing import Any

from jest_tf.monitoring import environment

MEASURED = pathlib.Path(__file__).parent / "measured"  # Files of kept lines.
DOCS = pathlib.Path(__file__).parents[1] / "docs"


def emit(figure: str, value: float | None, goal: str, unit: str, **details: Any) -> dict:
    """Prints one figure as a JSON line, and returns it.

    `details`: numerator, denominator, repeats, context, …
    """
    line = {"figure": figure, "value": _rounded(value), "goal": goal, "unit": unit}
    line |= {name: _rounded(detail) for name, detail in details.items()}
    print(json.dumps(line), flush=True)
    return line


def made_here() -> dict[str, str]:
    """`date` (UTC) and `hardware`, for lines that are kept."""
    here = environment.collect()
    return {
        "date": here["started_utc"][:10],
        "hardware": f"{here['n_cpus']} cores of {here['cpu']}",
    }


def made(lines: Iterable[dict[str, Any]], path: pathlib.Path) -> str:
    """When and on what kept lines were measured, and where all of them are."""
    when = sorted({(line["date"], line["hardware"]) for line in lines})
    where = "; ".join(f"{date}, {hardware}" for date, hardware in when)
    return f"Measured {where}. All figures: [{path.name}](../benchmarks/measured/{path.name})."


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a file, in its order; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: pathlib.Path, lines: Iterable[dict[str, Any]]) -> None:
    """Replaces the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _rounded(value):
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
