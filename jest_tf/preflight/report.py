"""One page of findings: what was looked at, and what is wrong."""

import dataclasses

LABEL_WIDTH = 22


@dataclasses.dataclass
class Section:
    """Part of the page: `rows` of (label, text), and `problems`, each a reason not to start."""

    title: str
    rows: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    def add(self, label: str, text: str) -> None:
        self.rows.append((label, text))


def render(sections: list[Section]) -> str:
    """The page; problems are marked where they arise and counted at the end."""
    lines = []
    for section in sections:
        lines.append(section.title)
        lines += [f"  {label:<{LABEL_WIDTH}} {text}" for label, text in section.rows]
        lines += [f"  PROBLEM: {problem}" for problem in section.problems]
    count = n_problems(sections)
    lines.append(f"{count} problem(s)." if count else "No problem found.")
    return "\n".join(lines)


def n_problems(sections: list[Section]) -> int:
    """How many problems all sections hold."""
    return sum(len(section.problems) for section in sections)


def binary(n_bytes: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.3g} {unit}" if n_bytes < 100 else f"{n_bytes:.0f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.3g} TiB" if n_bytes < 100 else f"{n_bytes:,.0f} TiB"


def decimal(value: float) -> str:
    """1.234e15 -> '1.23 P' (10^15); units are written behind it."""
    for unit in ("", "k", "M", "G", "T", "P"):
        if value < 1000:
            return f"{value:.3g} {unit}".rstrip()
        value /= 1000
    return f"{value:.3g} E"
