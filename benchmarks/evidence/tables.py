"""The full tables of a page, as records for CSV files: plain numbers, shares and scores in 0..1."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.evidence import suites
from benchmarks.evidence.analysis import (
    AXES,
    SCORES,
    RowResults,
    at_equal,
    speedup,
    spent_by,
    target_of,
    truth_of,
    with_reference,
)
from benchmarks.evidence.curves import Mean
from benchmarks.evidence.questions import answers

Rows = Mapping[str, RowResults]
Table = list[dict[str, Any]]


def tables(
    rows: Rows, pool: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> dict[str, Table]:
    """Name of a CSV file -> its records. `_se`: standard error over seeds."""
    found = {
        "speedups": _speedups(rows),
        "equal_cost": _equal_cost(rows),
        "final_scores": _final_scores(rows),
        "selected": _selected(rows, pool),
        "questions": _questions(rows, pool),
        "runs": runs(results),
    }
    return {name: table for name, table in found.items() if table}


def write(folder: Path, found: Mapping[str, Table]) -> None:
    """Writes NAME.csv for each table."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in found.items():
        (folder / f"{name}.csv").write_text(as_csv(table), encoding="utf-8")


def as_csv(table: Table) -> str:
    return pd.DataFrame(table).to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _columns(name: str, mean: Mean | None) -> dict[str, float | None]:
    return {name: mean.mean if mean else None, f"{name}_se": mean.error if mean else None}


def _speedups(rows: Rows) -> Table:
    """How much less than the baseline each row spends to reach the baseline's final score."""
    if suites.UNIFORM not in rows:
        return []
    baseline, table = rows[suites.UNIFORM], []
    for score in SCORES:
        for row in rows.values():
            found = {axis: speedup(row, baseline, axis, score) for axis in AXES if axis != "loaded"}
            steps = found["step"]
            record = {
                "score": score,
                "target": target_of(baseline, score),
                "trained_by": row.row.label,
                "seeds": steps.n_seeds,
                "seeds_there": steps.n_reached,
                "steps_needed": steps.spent and steps.spent.mean,
            }
            for axis, one in found.items():
                record |= _columns(f"fewer_{axis}", one.ratio)
            counted = with_reference(row, rows, score)
            table.append(record | _columns("fewer_flops_reference_training_counted", counted))
    return table


def _equal_cost(rows: Rows) -> Table:
    """Validation scores where a run has spent what joint selection spends in all."""
    if suites.JOINT not in rows:
        return []
    table = []
    for axis in (axis for axis in AXES if axis != "flops_cached"):
        budget = spent_by(rows[suites.JOINT], axis)
        for row in rows.values():
            record = {"axis": axis, "budget": budget, "trained_by": row.row.label}
            for score in SCORES:
                mean, ended = at_equal(row, axis, budget, score)
                record |= _columns(score, mean) | {"ends_earlier": ended}
            table.append(record)
    return table


def _final_scores(rows: Rows) -> Table:
    table = []
    for row in rows.values():
        config = row.one["config"]
        record = {
            "trained_by": row.row.label,
            "super_batch": config["selection"]["super_batch"],
            "sub_batch": config["selection"]["sub_batch"],
            "steps": config["total_steps"],
        }
        for score in SCORES:
            record |= _columns(score, row.test_mean(score))
        record |= {f"retrieval_seed_{seed}": value for seed, value in row.test().items()}
        table.append(record)
    return table


def _selected(rows: Rows, pool: Mapping[str, Any]) -> Table:
    table = []
    for row in rows.values():
        record: dict[str, Any] = {"trained_by": row.row.label}
        for name, mean in (truth_of(row, pool) or {}).items():
            record |= _columns(name.replace("broken", "noisy"), mean)
        if len(record) > 1:
            table.append(record)
    return table


def _questions(rows: Rows, pool: Mapping[str, Any]) -> Table:
    table = []
    for a in answers(rows, pool):
        record = {"question": a.question, "with": a.changed, "without": a.plain}
        record |= {"seeds": a.retrieval.n} | _columns("retrieval", a.retrieval)
        record |= _columns("retrieval_validation", a.validation)
        record |= _columns("zero_shot", a.zero_shot) | _columns("noisy_selected", a.broken)
        table.append(record)
    return table


def runs(results: Sequence[Mapping[str, Any]]) -> Table:
    """When, from which revision and with which learning rate each run was made."""
    table = []
    for result in results:
        made = result["made"]
        git = made["git"] or {"revision": "unknown", "dirty": False}
        table.append(
            {
                "run": result["cell"],
                "revision": git["revision"][:9],
                "uncommitted_changes": git["dirty"],
                "started_utc": made["started_utc"][:16],
                "wall_seconds": made["wall_seconds"],
                "load_average": made["load_average"],
                "learning_rate": result["config"]["optimizer"]["learning_rate"],
                "command": made["command"],
            }
        )
    return table
