"""The pictures of the page: scores against each cost, and what was picked along training."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence import picks
from benchmarks.evidence.analysis import RowResults

PANELS = {
    "step": ("steps", 1.0),
    "loaded": ("loaded examples, thousands", 1e3),
    "flops": ("TFLOP", 1e12),
    "seconds": ("seconds of training", 1.0),
}
KINDS_SHOWN = {"clean": "clean", "broken": "noisy", "duplicate": "duplicate", "icon": "icon"}
DPI = 110


def scores(
    rows: Sequence[RowResults], path: Path, score: str, title: str, target: float | None
) -> None:
    """Validation score against steps, loaded examples, FLOPs and seconds: mean ± standard error.

    A dotted line marks `target`, the baseline's final score.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(2, 2, figsize=(11, 9), sharey=True, layout="constrained")
    for panel, (axis, (label, unit)) in zip(axes.flat, PANELS.items(), strict=True):
        for row, colour in _coloured(rows):
            _line(panel, row, colour, _column("curve", axis), _column("curve", score), unit)
        if target is not None:
            panel.axhline(100 * target, color="grey", linestyle=":", linewidth=1)
        panel.set_xlabel(label)
        panel.set_ylabel(f"{title}, %")
        panel.grid(alpha=0.3)
    _save(plt, figure, axes[0, 0], path)


def picked(rows: Sequence[RowResults], path: Path, pool: Mapping[str, Any]) -> None:
    """Shares of kinds of rows among the picks along training; a dotted line is the pool's.

    As far as the shortest run goes.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(2, 2, figsize=(11, 9), layout="constrained")
    for panel, (kind, label) in zip(axes.flat, KINDS_SHOWN.items(), strict=True):
        _along_training(panel, rows, functools.partial(_share, kind=kind))
        panel.axhline(100 * _share(pool, kind), color="grey", linestyle=":", linewidth=1)
        panel.set_ylabel(f"{label} pairs among the selected, %")
    _save(plt, figure, axes[0, 0], path)


def distinct(rows: Sequence[RowResults], path: Path) -> None:
    """Distinct rows so far, concepts among 1,000 picks, and picks that the curated set holds."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(15, 5.5), layout="constrained")
    panels: list[tuple[str, Callable]] = [
        ("distinct examples selected so far", lambda w: w["distinct_so_far"] / 100),
        ("distinct concepts among 1,000 selected", lambda w: w["recent_concepts"] / 100),
        ("selected pairs that are in the curated set, %", lambda w: w["pair_seen"]),
    ]
    for panel, (label, value) in zip(axes.flat, panels, strict=True):
        _along_training(panel, rows, value)
        panel.set_ylabel(label)
    _save(plt, figure, axes[0], path)


def _along_training(panel, rows: Sequence[RowResults], value: Callable) -> None:
    with_picks = [(row, colour) for row, colour in _coloured(rows) if row.one["picks"] is not None]
    for row, colour in with_picks:
        _line(panel, row, colour, _window_steps, _of_windows(value))
    ends = [_window_steps(row.one)[-1] for row, _ in with_picks]
    # As long as the reference alone has run, nothing has been picked.
    panel.set_xlim(0, min(ends, default=None))
    panel.set_xlabel("steps")
    panel.grid(alpha=0.3)


def _coloured(rows: Sequence[RowResults]) -> list[tuple[RowResults, str]]:
    """A row has the same colour in every picture."""
    return [(row, f"C{i % 10}") for i, row in enumerate(rows)]


def _line(
    panel, row: RowResults, colour: str, x_of: Callable, y_of: Callable, unit: float = 1.0
) -> None:
    """Mean over seeds of 100 · y, with a band of one standard error. Seeds share their steps."""
    x = np.mean([x_of(cell) for cell in row.cells], axis=0) / unit
    y = 100 * np.array([y_of(cell) for cell in row.cells])
    panel.plot(x, y.mean(0), label=row.row.label, linewidth=1.4, color=colour)
    if len(y) > 1:
        error = y.std(0, ddof=1) / np.sqrt(len(y))
        panel.fill_between(x, y.mean(0) - error, y.mean(0) + error, alpha=0.2, color=colour)


def _column(table: str, name: str) -> Callable:
    return lambda cell: cell[table][name]


def _of_windows(value: Callable) -> Callable:
    return lambda cell: [value(window) for window in cell["picks"]["windows"]]


def _window_steps(cell: Mapping) -> list[int]:
    return [window["step"] for window in cell["picks"]["windows"]]


def _share(described: Mapping, kind: str) -> float:
    return picks.broken(described) if kind == "broken" else described["shares"].get(kind, 0.0)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(plt, figure, labelled, path: Path) -> None:
    """Writes the picture, the legend of the panel `labelled` below all panels."""
    handles, labels = labelled.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the date and version that matplotlib writes, an unchanged picture is the same file.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)
