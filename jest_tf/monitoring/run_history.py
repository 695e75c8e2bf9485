"""A whole run as its workdir tells it, for reports. Reads only, so running runs work too."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jest_tf import results
from jest_tf.config import completed, read_config
from jest_tf.files import read_object, steps_with_file
from jest_tf.monitoring.labels import CLEAN, Window, run_labels, windows
from jest_tf.monitoring.metrics_log import read_metrics
from jest_tf.monitoring.picks_log import UNKNOWN_ID, Picks
from jest_tf.monitoring.samples import Samples, read_samples

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
    names = [run.name for run in runs]
    full = [f"{run.name} ({run.path.name})" if names.count(run.name) > 1 else "" for run in runs]
    return [dataclasses.replace(r, name=f or r.name) for r, f in zip(runs, full, strict=True)]


def load_run(path: Path, n_sample_steps: int) -> RunHistory:
    """One run; `n_sample_steps`: of how many steps, spread over the run, to read the samples."""
    config = completed(read_config(path))
    made_with = path / "environment.json"
    labels = run_labels(path)
    pool, found = labels.pool_shares() if labels else {}, []
    if labels and (path / "picks" / "header.json").exists():
        picks = Picks(path / "picks")
        found = list(windows(picks, labels, max(1, -(-picks.last_step // N_WINDOWS))))
    points: dict[str, list[tuple[int, float]]] = {}
    for line in read_metrics(path / "metrics.jsonl"):
        for name, value in line.items():
            if name not in ("step", "time") and isinstance(value, int | float):
                points.setdefault(name, []).append((line["step"], float(value)))
    return RunHistory(
        path=path,
        name=config["name"],
        config=config,
        environment=read_object(made_with, "versions") if made_with.exists() else {},
        summary=summarise(str(path)),
        series={name: Series(*map(np.array, zip(*v, strict=True))) for name, v in points.items()},
        windows=found,
        pool=pool,
        pool_noisy=labels.noisy_share(pool) if labels else 0.0,
        samples={
            step: read_samples(path / "samples", step)
            for step in _spread(steps_with_file(path / "samples"), n_sample_steps)
        },
    )


def _spread(steps: list[int], n: int) -> list[int]:
    """At most n of the steps, the first and the last among them."""
    if len(steps) <= n:
        return steps
    return [steps[round(i * (len(steps) - 1) / max(1, n - 1))] for i in range(n)][-n:]


# Column of the table -> (key in the row, format). The order is the table's.
COLUMNS = {
    "run": ("name", "{}"),
    "policy": ("policy", "{}"),
    "steps": ("steps", "{:,}"),
    "scored": ("examples_scored", "{:,}"),
    "trained": ("examples_trained", "{:,}"),
    "TFLOP": ("flops", "{:,.1f}"),
    "seconds": ("seconds", "{:,.0f}"),
    "clean": ("picked_clean", "{:.1%}"),
    "noisy": ("picked_broken", "{:.1%}"),
    "I→T R@1": ("image_to_text_r1", "{:.1%}"),
    "R@5": ("image_to_text_r5", "{:.1%}"),
    "R@10": ("image_to_text_r10", "{:.1%}"),
    "T→I R@1": ("text_to_image_r1", "{:.1%}"),
    "R@5 ": ("text_to_image_r5", "{:.1%}"),
    "R@10 ": ("text_to_image_r10", "{:.1%}"),
    "0-shot": ("zero_shot_accuracy", "{:.1%}"),
}
TERA = 1e12


def summarise(workdir: str) -> dict:
    """The row of a run: `COLUMNS` and a few more keys; shares in 0..1, flops absolute, or None."""
    folder = Path(workdir)
    config = completed(read_config(folder))
    last = {}
    for line in read_metrics(folder / "metrics.jsonl"):
        last |= line
    selection = config["selection"]
    return {
        "name": config["name"],
        "workdir": workdir,
        "policy": selection["policy"],
        "criterion": selection["criterion"] if selection["policy"] != "uniform" else None,
        "data": config["data"]["train"],
        "seed": config["seed"],
        "steps": last.get("step"),
        "examples_scored": last.get("cost/examples_scored"),
        "examples_trained": last.get("cost/examples_trained"),
        "flops": last.get("cost/flops"),
        "seconds": last.get("cost/seconds"),
        "flops_by_phase": _by_phase(last, "cost/flops/"),
        "seconds_by_phase": _by_phase(last, "cost/seconds/"),
        **_picked(folder),
        **evaluated(folder),
    }


def _by_phase(metrics: dict, prefix: str) -> dict[str, float]:
    return {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}


def verdict(rows: Sequence[dict]) -> str:
    """Which run is ahead, by mean of the retrieval R@1 and R@5 both ways, and by how much."""
    scored = sorted(((retrieval_score(r), r["name"]) for r in rows), reverse=True)
    (best, name), rest = scored[0], scored[1:]
    lines = [f"{name} is ahead" if rest and best > rest[0][0] else "Nobody is ahead"]
    lines[0] += f": retrieval score {best:.1%} (mean of R@1 and R@5, both ways)"
    for score, other in rest:
        ratio = f", {best / score:.1f} times" if score > 0 else ""
        lines[0] += f", against {score:.1%} of {other} ({best - score:+.1%}{ratio})"
    lines[0] += ". One seed each: early in training seeds can differ by more than policies."
    return "\n".join(lines)


def retrieval_score(row: dict) -> float:
    """Mean of R@1 and R@5 over both directions, the score that runs are compared by."""
    keys = [f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5)]
    return sum(row.get(key) or 0.0 for key in keys) / len(keys)


def _picked(folder: Path) -> dict:
    """Shares of clean and noisy pairs among the selected, where the data brought labels."""
    labels = run_labels(folder)
    picks = Picks(folder / "picks") if labels and (folder / "picks").exists() else None
    if not picks or not picks.last_step:
        return {"picked_clean": None, "picked_broken": None, "picked_distinct": None}
    ids = picks.window(1, picks.last_step)
    ids = ids[ids != UNKNOWN_ID]
    shares = labels.shares(ids)
    return {
        "picked_clean": shares.get(CLEAN, 0.0),
        "picked_broken": labels.noisy_share(shares),
        "picked_distinct": len(set(ids.tolist())),
        "pool_broken": labels.noisy_share(labels.pool_shares()),
    }


def evaluated(folder: Path, step: int | None = None) -> dict:
    """The newest result of each kind of evaluation, or that of a step, by the table's names."""
    newest = {}
    for result in results.read_results(folder / "evaluations", step):
        if result["dataset"].endswith(":validation"):
            continue  # what was chosen on does not go into a results table
        previous = newest.get(result["kind"])
        if previous is None or (result.get("step") or 0) >= (previous.get("step") or 0):
            newest[result["kind"]] = result
    values = {}
    if "retrieval" in newest:
        metrics = newest["retrieval"]["metrics"]
        for way in ("image_to_text", "text_to_image"):
            for k in (1, 5, 10):
                values[f"{way}_r{k}"] = metrics[f"{way}/recall@{k}"]
    if "zero_shot" in newest:
        values["zero_shot_accuracy"] = newest["zero_shot"]["metrics"]["top1"]
    evaluated_on = {kind: result["dataset"] for kind, result in newest.items()}
    return values | {"evaluated_on": evaluated_on}
