"""The figures of `bench.input`, kept beside the docs and shown in docs/data.md."""

import pathlib

from jest_tf.bench import figures
from jest_tf.monitoring import generated

DOCS = pathlib.Path(__file__).parents[2] / "docs"
FIGURES = DOCS / "input_figures.jsonl"
PAGE = DOCS / "data.md"
SECTION = "figures"
DETAILS = {  # field -> how the table shows it
    "source_px": "{} px JPEGs",
    "prepared_px": "prepared to {} px",
    "super_batch": "B = {:,}",
    "shards": "{:,} shards",
    "processes": "{} processes",
    "read_share": "{:.1%} of the bytes read",
    "cpu_seconds": "{:.2f} s of CPU time",
    "steps": "{} steps",
    "policy": "{}",
    "dtype": "{}",
    "picks_shared": "{:.1%} of the picks the same",
}


def keep(lines: list[dict]) -> None:
    """Replaces the kept lines of the same figures and conditions, and renews the page."""
    kept = {_key(line): line for line in load()}
    kept |= {_key(line): line | figures.made_here() for line in lines}
    figures.write(FIGURES, kept.values())
    generated.fill(PAGE, SECTION, table())


def load() -> list[dict]:
    """The lines that were kept, in the order in which their figures first came."""
    return figures.read(FIGURES)


def table() -> str:
    """Markdown: one row per kept line."""
    rows = ["| figure | goal | measured | with | made |", "|---|---|---|---|---|"]
    for line in load():
        shown = [text.format(line[name]) for name, text in DETAILS.items() if name in line]
        rows.append(
            f"| `{line['figure']}` | {line['goal']} | {line['value']:.3g} {line['unit']} "
            f"| {', '.join(shown)} | {line['date']}, {line['hardware']} |"
        )
    return "\n".join(rows) + "\n"


def _key(line: dict) -> tuple:
    return line["figure"], line.get("source_px"), line.get("dtype")
