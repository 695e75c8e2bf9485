"""A whole run as its workdir tells it, for reports. Reads only, so running runs work too."""

import collections
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jest_tf.config import flat
from jest_tf.files import read_json, steps_with_file
from jest_tf.monitoring.labels import Window, run_labels, windows
from jest_tf.monitoring.metrics_log import read_metrics
from jest_tf.monitoring.picks_log import Picks
from jest_tf.monitoring.run_summary import summarise
from jest_tf.monitoring.samples import Samples, read_samples
from jest_tf.stored_config import completed, read_config

N_WINDOWS = 40


@dataclasses.dataclass(frozen=True)
class Series:
    """One number over the run: `step` int64 [k] ascending, `value` float64 [k]."""

    step: np.ndarray
    value: np.ndarray


@dataclasses.dataclass(frozen=True)
class RunHistory:
    """What a run did."""

    path: Path
    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]  # its row in result tables
    series: dict[str, Series]  # by name in metrics.jsonl
    windows: list[Window]  # selected over time
    pool: dict[str, float]  # label -> share of its whole data, where they brought labels
    pool_noisy: float  # share of the noisy ones
    samples: dict[int, Samples]  # step -> examples

    def flops_at(self, steps: np.ndarray) -> np.ndarray:
        """FLOPs spent until each of some steps, NaN where the run does not say."""
        cost = self.series.get("cost/flops")
        if cost is None:
            return np.full(len(steps), np.nan)
        # Between two logged steps every step costs the same.
        at_steps = np.concatenate([[0], cost.step])
        return np.interp(steps, at_steps, np.concatenate([[0.0], cost.value]))


def load_runs(workdirs: Iterable[str], n_sample_steps: int) -> list[RunHistory]:
    """The runs in some workdirs, under different names; UserError: no run, or damaged."""
    runs = [load_run(Path(workdir), n_sample_steps) for workdir in workdirs]
    counts = collections.Counter(run.name for run in runs)
    return [
        dataclasses.replace(run, name=f"{run.name} ({run.path.name})")
        if counts[run.name] > 1
        else run
        for run in runs
    ]


def load_run(path: Path, n_sample_steps: int) -> RunHistory:
    """One run; `n_sample_steps`: of how many steps, spread over the run, to read the samples."""
    config = completed(read_config(path))
    has_environment = (path / "environment.json").exists()
    labels = run_labels(path)
    pool, found = labels.pool_shares() if labels else {}, []
    if labels and (path / "picks" / "header.json").exists():
        picks = Picks(path / "picks")
        found = list(windows(picks, labels, max(1, -(-picks.last_step // N_WINDOWS))))
    return RunHistory(
        path=path,
        name=config["name"],
        config=config,
        environment=read_json(path / "environment.json") if has_environment else {},
        summary=summarise(str(path)),
        series=read_series(path / "metrics.jsonl"),
        windows=found,
        pool=pool,
        pool_noisy=labels.noisy_share(pool) if labels else 0.0,
        samples={
            step: read_samples(path / "samples", step)
            for step in _spread(steps_with_file(path / "samples"), n_sample_steps)
        },
    )


def read_series(path: Path) -> dict[str, Series]:
    """Every number of a metrics file over steps."""
    points: dict[str, list[tuple[int, float]]] = {}
    for line in read_metrics(path) if path.exists() else ():
        for name, value in line.items():
            if name not in ("step", "time") and isinstance(value, int | float):
                points.setdefault(name, []).append((line["step"], float(value)))
    return {
        name: Series(np.array([p[0] for p in found]), np.array([p[1] for p in found]))
        for name, found in points.items()
    }


def config_differences(runs: list[RunHistory]) -> dict[str, list[Any]]:
    """Dotted field → value in each run, of the fields in which the runs differ."""
    fields_of = [flat(run.config) for run in runs]
    fields = sorted(set().union(*fields_of))
    rows = {field: [values.get(field, "(absent)") for values in fields_of] for field in fields}
    return {field: row for field, row in rows.items() if any(v != row[0] for v in row)}


def _spread(steps: list[int], n: int) -> list[int]:
    """At most n of the steps, the first and the last among them."""
    if len(steps) <= n:
        return steps
    return [steps[round(i * (len(steps) - 1) / max(1, n - 1))] for i in range(n)][-n:]
