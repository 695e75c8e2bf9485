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
    """The three speed-ups that were promised."""
    baseline = rows.get(suites.ANEW_UNIFORM)
    found = []
    for figure, name, goal, axis, note in (
        ("steps_speedup", suites.ANEW_JOINT, 15, "step", "steps"),
        ("flops_speedup", suites.ANEW_FLEXI, 12, "flops_cached", "FLOPs, reference cached"),
        ("flops_speedup_with_reference", suites.ANEW_FLEXI, 2, "",
         "FLOPs, the reference's training counted"),
    ):  # fmt: skip
        used = [rows[name], baseline] if name in rows and baseline else []
        if not used:
            found.append(Speed(figure, goal, used, None, "not measured"))
            continue
        row = used[0]
        if axis:
            value = speedup(row, baseline, axis, "retrieval").ratio
        else:
            value = with_reference(row, rows, "retrieval", suites.ANEW_UNIFORM)
        there = speedup(row, baseline, "step", "retrieval").n_reached
        note = (
            f"from nothing, `{name}`: {note}, to the final validation score of `{baseline.row.name}"
            f"`; {there} of {len(row.cells)} seeds got there"
        )
        found.append(Speed(figure, goal, used, value, note))
    return found


def table_of(rows: Rows, pool: Mapping) -> str:
    """What each row costs until it has uniform's final score, and how it ends."""
    baseline, body = rows.get(suites.ANEW_UNIFORM), []
    for row in (rows[declared.name] for declared in suites.ANEW if declared.name in rows):
        truth = truth_of(row, pool)
        fewer, there = ["-", "-"], ""
        if baseline:
            found = speedup(row, baseline, "step", "retrieval")
            there = f" ({found.n_reached}/{found.n_seeds})"
            flops = speedup(row, baseline, "flops_cached", "retrieval").ratio
            counted = with_reference(row, rows, "retrieval", suites.ANEW_UNIFORM)
            fewer = [ratio(found.ratio) + there, f"{ratio(flops)}; {ratio(counted)}"]
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
