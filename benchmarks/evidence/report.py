"""Writes the page and its pictures from the results that are there."""

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
    store: Path,
    page_path: Path,
    truth: PoolTruth,
    readme: Path | None = None,
) -> Path:
    """Everything that is shown, from the results in `store` alone.

    Args:
      family: of suites. command: to print on the page. store: file of results.
      page_path: of the page. Pictures go into a folder of its name beside it.
      readme: a page with a part named `evidence` for the headline rows.

    Raises:
      UserError: `readme` has no such part.
    """
    declared = suites.FULL_ROWS if family == "full" else suites.SUITES[family].rows
    cells = {f"{row.name}-s{seed}" for row in declared for seed in row.seeds}
    cells |= {cell.name for cell in make_cells(declared, [row.name for row in declared])}
    known = results.Store(store).read()
    unfinished = sorted(cells - set(known))
    found = {name: result for name, result in known.items() if name in cells}
    rows, pool = analysis.by_row(declared, found), truth.pool()
    out = page_path.with_suffix("")
    page_path.parent.mkdir(parents=True, exist_ok=True)
    where = os.path.relpath(store, page_path.parent)
    shown = page.Shown(command, rows, out.name, where, list(found.values()), unfinished, pool)
    if family == "approximations":
        text = approximations_page.page(shown)
    else:
        text = _evidence(family, shown, analysis.trials(declared, found), out)
    page_path.write_text(text, encoding="utf-8")
    if readme is not None:
        generated.fill(readme, "evidence", f"{page.headline(rows, pool)}\n")
    return page_path


def _evidence(family: str, shown: page.Shown, tried: list[analysis.Trials], out: Path) -> str:
    """Draws the pictures and returns the page."""
    figures = claims.figures(shown.rows, shown.pool)
    verdicts = claims.claims(shown.rows)
    _draw(shown.rows, out, shown.pool)
    return page.page(family, shown, tried, figures, verdicts)


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
