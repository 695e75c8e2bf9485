"""One page of findings: what was looked at, and what is wrong."""

import dataclasses

from ml_collections import ConfigDict

from jest_tf.config_checks import problems, replica_problems
from jest_tf.errors import UserError

LABEL_WIDTH = 22


@dataclasses.dataclass
class Section:
    """Part of the page: `rows` of (label, text), and `problems`, each a reason not to start.

    A `with` block that fills it ends at a UserError, which is then one of its problems.
    """

    title: str
    rows: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    def add(self, label: str, text: str) -> None:
        self.rows.append((label, text))

    def __enter__(self) -> "Section":
        return self

    def __exit__(self, kind, error, _) -> bool:
        if isinstance(error, UserError):
            self.problems.append(str(error))
        return isinstance(error, UserError)


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


def check_sizes(config: ConfigDict, n_replicas: int, n_hosts: int) -> Section:
    """Who loads, scores and trains how much per step."""
    section = Section(f"Sizes: {n_replicas} replica(s) on {n_hosts} host(s)")
    section.problems = problems(config)
    if n_replicas % n_hosts:
        section.problems.append(
            f"{n_replicas} replicas cannot be shared evenly by {n_hosts} hosts. Change --replicas "
            "or --hosts."
        )
    if section.problems:
        return section
    section.problems = replica_problems(config, n_hosts, n_replicas)
    s = config.selection
    big, small = s.super_batch, s.sub_batch
    section.add("filter ratio", f"{1 - small / big:.4g} = 1 - {small:,} / {big:,}")
    scored, drawn = (" and scores", "") if s.policy != "uniform" else ("", " at random")
    section.add("each step", f"loads{scored} {big:,}, trains {small:,}{drawn}")
    section.add("each replica", f"loads {big / n_replicas:,.6g}, trains {small / n_replicas:,.6g}")
    if s.policy == "joint":
        section.add("joint draws", f"{s.n_chunks} chunks of {small // s.n_chunks:,}")
    if n_hosts > 1:
        lanes = config.data.n_lanes / n_hosts
        section.add("each host", f"loads {big / n_hosts:,.6g} from {lanes:g} of the lanes")
    steps = config.total_steps
    section.add("the run", f"{steps:,} steps: {steps * small:,} trained, {steps * big:,} loaded")
    if s.policy == "uniform":
        text = f"a step survives {big - small:,} records that cannot be used; no other use of them"
        if big == small:
            text = "nothing: a step with a record that cannot be used is refused (`check "
            text += "--all_records` names the super_batch that your data need)"
        section.add("in reserve", text)
    return section
