"""docs/approximations.md: what each way of cheaper scores costs, picks and reaches."""

from collections.abc import Mapping, Sequence

from benchmarks.evidence import suites
from benchmarks.evidence.analysis import RowResults, truth_of
from benchmarks.evidence.curves import Mean, mean_of
from benchmarks.evidence.markdown import percent, table
from benchmarks.evidence.page import Shown, render


def page(shown: Shown) -> str:
    """The whole page as Markdown."""
    rows = [row for name, row in shown.rows.items() if name in suites.APPROXIMATIONS]
    return render(
        "approximations.md.j2",
        shown,
        flops=f"{suites.SAME_FLOPS:.3g}",
        scores=_scores(rows, shown.pool),
        agreement=_agreement(rows),
    )


def _scores(rows: Sequence[RowResults], pool: Mapping) -> str:
    plain = next((_per_step(r) for r in rows if r.row.name == suites.SAME_FLOPS_UNIFORM), None)
    body = []
    for row in rows:
        truth = truth_of(row, pool)
        step = "-" if plain is None else f"{_per_step(row) / plain:.2f}x"
        body.append(
            [
                row.row.label,
                step,
                f"{row.one['config']['total_steps']:,}",
                percent(truth["broken"]),
                percent(row.test_mean("retrieval")),
                percent(row.test_mean("zero_shot")),
                f"{len(row.cells)}",
            ]
        )
    heads = ["scores", "step", "steps", "noisy selected", "retrieval", "zero-shot", "seeds"]
    return table(heads, body)


def _agreement(rows: Sequence[RowResults]) -> str:
    body = []
    for row in rows:
        cells = [cell["agreement"] for cell in row.cells if cell["agreement"]]
        if not cells:
            continue
        n = min(len(cell["step"]) for cell in cells)
        kept, ranks = (
            " · ".join(_digits(_mean_at(cells, name, k)) for k in range(n))
            for name in ("picks_overlap", "rank_correlation")
        )
        redrawn = _digits(mean_of([v for cell in cells for v in cell["redrawn_overlap"]]))
        steps = " · ".join(str(step) for step in cells[0]["step"])
        body.append([row.row.label, steps, kept, redrawn, ranks])
    if not body:
        return ""
    heads = ["scores", "at steps", "kept", "redrawn", "rank correlation"]
    return table(heads, body)


def _mean_at(cells: Sequence[Mapping], name: str, k: int) -> Mean:
    return mean_of([cell[name][k] for cell in cells])


def _digits(mean: Mean) -> str:
    return f"{mean.mean:.2f}"


def _per_step(row: RowResults) -> float:
    curve = row.one["curve"]
    return curve["flops_cached"][-1] / curve["step"][-1]
