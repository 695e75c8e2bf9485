"""The runs from nothing with the right vocabulary, for docs/results.md: table and speed-ups."""

from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.evidence import suites
from benchmarks.evidence.analysis import RowResults, speedup, spent_by, truth_of, with_reference
from benchmarks.evidence.curves import Mean
from benchmarks.evidence.markdown import percent, ratio, table

Rows = Mapping[str, RowResults]


class Speed(NamedTuple):
    """A goal: what the baseline spends in all over what a row spends to reach its final score.

    ratio: None if it was not measured or no seed got there. Reached only where every seed got
    there.
    """

    figure: str
    goal: float
    used: list[RowResults]
    ratio: Mean | None
    note: str

    @property
    def reached(self) -> bool:
        got_there = self.ratio is not None and self.ratio.n == len(self.used[0].cells)
        return got_there and self.ratio.mean >= self.goal


def speeds(rows: Rows) -> list[Speed]:
    """The three speed-ups that were promised, against uniform runs as long as the older ones."""
    row, baseline = rows.get(suites.ANEW_RECIPE), rows.get(suites.ANEW_LONG)
    found = []
    for figure, goal, axis, what in (
        ("steps_speedup", 15, "step", "steps"),
        ("flops_speedup", 12, "flops_cached", "FLOPs, reference cached"),
        ("flops_speedup_with_reference", 2, "", "FLOPs, the reference's training counted"),
    ):
        if not row or not baseline:
            note = "not measured with the right vocabulary; older runs: docs/from_nothing.md"
            found.append(Speed(figure, goal, [], None, note))
            continue
        there = speedup(row, baseline, "step", "retrieval").n_reached
        note = (
            f"from nothing, `{row.row.name}`: {what}, to the final validation score of "
            f"`{baseline.row.name}`, {spent_by(baseline, 'step'):.0f} steps; {there} of "
            f"{len(row.cells)} seeds got there"
        )
        if shorter := rows.get(suites.ANEW_UNIFORM):
            note += (
                f"; to that of `{shorter.row.name}`, {spent_by(shorter, 'step'):.0f} steps: "
                f"{ratio(_ratio(row, rows, axis, suites.ANEW_UNIFORM))}"
            )
        value = _ratio(row, rows, axis, suites.ANEW_LONG)
        found.append(Speed(figure, goal, [row, baseline], value, note))
    return found


def _ratio(row: RowResults, rows: Rows, axis: str, uniform: str) -> Mean | None:
    """Of uniform's cost to the row's; axis "": in FLOPs, the reference's training counted."""
    if axis:
        return speedup(row, rows[uniform], axis, "retrieval").ratio
    return with_reference(row, rows, "retrieval", uniform)


def table_of(rows: Rows, pool: Mapping) -> str:
    """What each row costs until it has uniform's final score, and how it ends."""
    baseline, body = rows.get(suites.ANEW_UNIFORM), []
    shown = (*suites.ANEW, *suites.ANEW_ONCE)
    for row in (rows[declared.name] for declared in shown if declared.name in rows):
        truth = truth_of(row, pool)
        fewer, there = ["-", "-"], ""
        if baseline:
            found = speedup(row, baseline, "step", "retrieval")
            there = f" ({found.n_reached}/{found.n_seeds})"
            flops, counted = (
                _ratio(row, rows, axis, suites.ANEW_UNIFORM) for axis in ("flops_cached", "")
            )
            is_counted = row.row.name != suites.ANEW_BY_BASE  # the shipped base is there already
            counted = ratio(counted) if is_counted else "-"
            fewer = [ratio(found.ratio) + there, f"{ratio(flops)}; {counted}"]
        if baseline is row:
            fewer = ["1x", "1x"]
        body.append(
            [
                row.row.label,
                f"{spent_by(row, 'step'):.0f}; {spent_by(row, 'flops_cached') / 1e12:.1f}",
                *fewer,
                percent(row.test_mean("retrieval")),
                percent(row.test_mean("zero_shot")),
                percent(truth["broken"]) if truth else "-",
            ]
        )
    heads = ["trained by", "steps; TFLOP", "fewer steps to uniform's final score (seeds there)",
             "fewer FLOPs; reference's training counted", "retrieval", "zero-shot",
             "noisy selected"]  # fmt: skip
    return table(heads, body) if body else ""
