"""Writes the page, its pictures and the analysis from the results that are there."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import generated
from benchmarks.evidence import (
    analysis,
    approximations_page,
    claims,
    page,
    plots,
    results,
    suites,
)
from benchmarks.evidence.grid import HEADLINE, make_cells
from benchmarks.evidence.picks import PoolTruth


def write_report(
    family: str,
    command: str,
    out: Path,
    page_path: Path,
    truth: PoolTruth,
    readme: Path | None = None,
) -> Path:
    """Everything that is shown, from `out/cells/*.json` alone.

    Args:
      family: of suites. command: to print on the page. out: folder of cells and pictures.
      page_path: of the page.
      readme: a page with a part named `evidence` for the headline rows.

    Raises:
      UserError: `readme` has no such part.
    """
    declared = suites.FULL_ROWS if family == "full" else suites.SUITES[family].rows
    cells = {f"{row.name}-s{seed}" for row in declared for seed in row.seeds}
    cells |= {cell.name for cell in make_cells(declared, [row.name for row in declared])}
    found = {name: results.read(out / "cells" / f"{name}.json") for name in sorted(cells)}
    unfinished = [name for name, result in found.items() if result is None]
    found = {name: result for name, result in found.items() if result is not None}
    rows, pool = analysis.by_row(declared, found), truth.pool()
    page_path.parent.mkdir(parents=True, exist_ok=True)
    shown = page.Shown(
        command,
        rows,
        os.path.relpath(out, page_path.parent),
        list(found.values()),
        unfinished,
        pool,
    )
    if family == "approximations":
        text = approximations_page.page(shown)
    else:
        text = _evidence(family, shown, analysis.trials(declared, found), out)
    page_path.write_text(text, encoding="utf-8")
    if readme is not None:
        generated.fill(readme, "evidence", f"{page.headline(rows, pool)}\n")
    return page_path


def _evidence(family: str, shown: page.Shown, tried: list[analysis.Trials], out: Path) -> str:
    """Draws the pictures, writes the summary, and returns the page."""
    figures = claims.figures(shown.rows, shown.pool)
    verdicts = claims.claims(shown.rows)
    _draw(shown.rows, out, shown.pool)
    results.write(out / "summary.json", summary(shown.rows, figures, verdicts, shown.pool))
    return page.page(family, shown, tried, figures, verdicts)


def summary(
    rows: Mapping[str, analysis.RowResults],
    figures: list[claims.Figure],
    verdicts: list[claims.Claim],
    pool: Mapping[str, Any],
) -> dict[str, Any]:
    """The page's numbers as data."""
    baseline = rows.get(suites.UNIFORM)
    of_rows = {}
    for name, row in rows.items():
        of_rows[name] = {
            "label": row.row.label,
            "cells": [cell["cell"] for cell in row.cells],
            "test": {score: row.test_mean(score)._asdict() for score in analysis.SCORES},
            "picked": {k: m._asdict() for k, m in (analysis.truth_of(row, pool) or {}).items()},
        }
        if baseline:
            of_rows[name]["speedup"] = {
                score: {
                    axis: _plain(analysis.speedup(row, baseline, axis, score))
                    for axis in analysis.AXES
                }
                for score in analysis.SCORES
            }
    return {
        "figures": [figure._asdict() for figure in figures],
        "claims": [claim._asdict() for claim in verdicts],
        "rows": of_rows,
        "pool": pool,
    }


def _plain(found: analysis.Speedup) -> dict[str, Any]:
    values = found._asdict()
    for key in ("spent", "ratio"):
        values[key] = values[key] and values[key]._asdict()
    return json.loads(json.dumps(values))


def _draw(rows: Mapping[str, analysis.RowResults], out: Path, pool: Mapping[str, Any]) -> None:
    shown = [row for row in rows.values() if row.row.group == HEADLINE]
    if not shown:
        return
    baseline = rows.get(suites.UNIFORM)
    for score, title in analysis.SCORES.items():
        target = analysis.target_of(baseline, score) if baseline else None
        plots.scores(shown, out / f"{score}.png", score, f"{title} (validation)", target)
    plots.picked(shown, out / "picked.png", pool)
    plots.distinct(shown, out / "distinct.png")
