"""Figures kept in benchmarks/measured, and shown in a table of one of their pages."""

import dataclasses
import pathlib
from collections.abc import Iterable

from benchmarks import figures, generated
from benchmarks.figures import DOCS, MEASURED

SECTION = "figures"
DETAILS = {  # field -> how a table shows it
    "recipe": "{}",
    "model": "{}",
    "replicas": "{} devices",
    "format": "{}",
    "source_px": "{} px JPEGs",
    "bare_resize": "bare pipeline by {}",
    "prepared_px": "prepared to {} px",
    "super_batch": "B = {:,}",
    "sub_batch": "b = {:,}",
    "image_size": "{} px",
    "n_tokens": "{} tokens",
    "reference": "reference {}",
    "score": "scored at {}",
    "shards": "{:,} shards",
    "processes": "{} processes",
    "read_share": "{:.1%} of the bytes read",
    "cpu_seconds": "{:.2f} s of CPU time",
    "peak_gib": "{:.2g} GiB",
    "time_ratio": "time {:.3g} x plain",
    "flops_ratio": "FLOPs {:.3g} x plain",
    "steps": "{} steps",
    "criterion": "joint, {}",
    "dtype": "{}",
    "picks_shared": "{:.1%} of the selected examples the same",
}


@dataclasses.dataclass(frozen=True)
class FigurePage:
    """The lines of one benchmark, in `lines`, and the section of `page` that shows them.

    case: fields that with the figure's name say which kept line a new one replaces.
    """

    lines: pathlib.Path
    page: pathlib.Path
    case: tuple[str, ...] = ()

    def keep(self, lines: Iterable[dict]) -> None:
        """Replaces the kept lines of the same figures and cases, and renews the page."""
        kept = {self._key(line): line for line in self.load()}
        kept |= {self._key(line): line | figures.made_here() for line in lines}
        figures.write(self.lines, kept.values())
        generated.fill(self.page, SECTION, self.table())

    def load(self) -> list[dict]:
        """The lines that were kept, in the order in which their figures first came."""
        return figures.read(self.lines)

    def table(self) -> str:
        """Markdown: a row per kept line that has a goal, then where all lines are and were made."""
        lines = self.load()
        rows = ["| figure | goal | measured | with |", "|---|---|---|---|"]
        for line in lines:
            shown = [text.format(line[name]) for name, text in DETAILS.items() if name in line]
            if line["goal"]:
                rows.append(
                    f"| `{line['figure']}` | {line['goal']} | {line['value']:.3g} {line['unit']} "
                    f"| {', '.join(shown)} |"
                )
        return "\n".join([*rows, "", figures.made(lines, self.lines)]) + "\n"

    def _key(self, line: dict) -> tuple:
        return line["figure"], *(line.get(field) for field in self.case)


INPUT = FigurePage(
    MEASURED / "input.jsonl",
    DOCS / "data.md",
    ("source_px", "bare_resize", "criterion", "dtype", "format"),
)
COST = FigurePage(MEASURED / "cost.jsonl", DOCS / "cost.md", ("recipe",))
DISTRIBUTED = FigurePage(MEASURED / "distributed.jsonl", DOCS / "scaling.md")
