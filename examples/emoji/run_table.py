"""The quickstart's runs as rows of a table, for the terminal and for pages."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jest_tf.monitoring.run_history import COLUMNS, TERA, evaluated, retrieval_score

# The columns of a table in a page, which has room for seven.
SHORT_COLUMNS = {
    "run": ("name", "{}"),
    "steps": ("steps", "{:,}"),
    "TFLOP": ("flops", "{:,.1f}"),
    "seconds": ("seconds", "{:,.0f}"),
    "noisy selected": ("picked_broken", "{:.1%}"),
    "retrieval": ("retrieval", "{:.1%}"),
    "zero-shot": ("zero_shot_accuracy", "{:.1%}"),
}


def at_start(workdir: str, name: str) -> dict:
    """The row of what a tuned run started from: its scores at step 0, before it cost anything."""
    return {"name": name, "workdir": workdir, "steps": 0, **evaluated(Path(workdir), step=0)}


def text_table(rows: Sequence[dict]) -> str:
    """The rows as aligned text, one line each."""
    lines = cells(rows, COLUMNS)
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(rows: Sequence[dict]) -> str:
    """The SHORT_COLUMNS of the rows as a Markdown table."""
    head, *body = ["| " + " | ".join(line) + " |" for line in cells(rows)]
    return "\n".join([head, "|---" * len(SHORT_COLUMNS) + "|", *body])


def cells(
    rows: Sequence[dict], columns: Mapping[str, tuple[str, str]] = SHORT_COLUMNS
) -> list[list[str]]:
    """The head, and a line per row, as text."""
    lines = [list(columns)]
    for row in rows:
        flops = row.get("flops")
        row = row | {"flops": None if flops is None else flops / TERA}
        row["retrieval"] = retrieval_score(row) if "image_to_text_r1" in row else None
        told = [(row.get(key), form) for key, form in columns.values()]
        lines.append(["-" if value is None else form.format(value) for value, form in told])
    return lines
