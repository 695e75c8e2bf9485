"""Writes the page and its pictures from the results that are there."""

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
    tuning_page,
    variants_page,
)
from benchmarks.evidence.grid import HEADLINE, make_cells
from benchmarks.evidence.picks import PoolTruth
from benchmarks.evidence.tables import Table, runs, tables
from benchmarks.evidence.tables import write as write_tables

BQ = Path("benchmarks/measured/bq.jsonl")


def write_report(
    family: str,
    command: str,
    store: Path,
    page_path: Path,
    truth: PoolTruth,
    readme: Path | None = None,
) -> Path:
    """Writes the page, and pictures and full tables into a folder of its name beside it.

    Args:
      family: of suites. command: to print on the page. store: file of results.
      readme: a page with a part named `evidence` for the headline rows.

    Raises:
      UserError: `readme` has no such part.
    """
    shown, tried = load(family, command, store, page_path, truth)
    text, found = contents(family, shown, tried)
    page_path.parent.mkdir(parents=True, exist_ok=True)
    page_path.write_text(text, encoding="utf-8")
    write_tables(page_path.with_suffix(""), found)
    if family == "tuning":
        goals = json.dumps(tuning_page.results_json(evidence_of(shown)), indent=1)
        page_path.with_suffix(".json").write_text(goals + "\n", encoding="utf-8")
        variants = variants_page.page(shown)
        page_path.with_name("variants.md").write_text(variants, encoding="utf-8")
    elif family != "approximations":
        _draw(shown.rows, page_path.with_suffix(""), shown.pool)
    if readme is not None:
        generated.fill(readme, "evidence", readme_part(family, shown))
    return page_path


def load(
    family: str, command: str, store: Path, page_path: Path, truth: PoolTruth
) -> tuple[page.Shown, list[analysis.Trials]]:
    """What a page shows, from the results in `store` alone."""
    declared = suites.FULL_ROWS if family == "full" else suites.SUITES[family].rows
    cells = {f"{row.name}-s{seed}" for row in declared for seed in row.seeds}
    cells |= {cell.name for cell in make_cells(declared, [row.name for row in declared])}
    known = results.Store(store).read()
    found = {name: result for name, result in known.items() if name in cells}
    shown = page.Shown(
        command,
        analysis.by_row(declared, found),
        page_path.stem,
        os.path.relpath(store, page_path.parent),
        list(found.values()),
        sorted(cells - set(known)),
        truth.pool(),
    )
    return shown, analysis.trials(declared, found)


def contents(
    family: str, shown: page.Shown, tried: list[analysis.Trials]
) -> tuple[str, dict[str, Table]]:
    """The page's text, and its tables by name."""
    if family == "approximations":
        return approximations_page.page(shown), {"runs": runs(shown.results)}
    if family == "tuning":
        kept = tables(shown.rows, shown.pool, shown.results)
        kept = {name: kept[name] for name in ("final_scores", "selected", "runs") if name in kept}
        kept["trials"] = tuning_page.trial_records(evidence_of(shown).trials)
        return tuning_page.page(evidence_of(shown), shown), kept
    figures = claims.figures(shown.rows, shown.pool)
    text = page.page(family, shown, tried, figures, claims.claims(shown.rows))
    return text, tables(shown.rows, shown.pool, shown.results)


def evidence_of(shown: page.Shown) -> tuning_page.Evidence:
    """The runs with what else their page tells: comparisons of scores."""
    lines = BQ.read_text(encoding="utf-8").splitlines() if BQ.exists() else []
    trials = {result["row"]: result for result in shown.results}
    bq = [json.loads(line) for line in lines]
    return tuning_page.Evidence(shown.rows, trials, bq, shown.pool)


def readme_part(family: str, shown: page.Shown) -> str:
    """The part of the project's front page."""
    if family == "tuning":
        return tuning_page.readme_part(evidence_of(shown))
    lines = "\n".join(f"- {line}" for line in page.short_answer(shown.rows))
    return f"{lines}\n\n{page.headline(shown.rows, shown.pool)}\n"


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
