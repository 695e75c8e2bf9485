"""The results of finished runs: all that the analysis reads, and where each comes from.

One experiment has one file, gzipped JSON lines, a line per run (see `Store`):

cell, row, seed, definition   which run of which experiment
made                          command, git revision, date, hardware, versions, wall-clock time
config                        of the run
curve                         at every evaluation on the validation part: scores and cost
test                          the test part, evaluated once at the end
picks                         what was chosen, against the truth (see `picks`)
selection                     the run's own diagnostics along training
agreement                     of cheap with full scores at its checkpoints, where it was measured
"""

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from benchmarks.evidence.grid import Cell
from benchmarks.evidence.picks import PoolTruth, describe_picks
from jest_tf.errors import UserError
from jest_tf.files import write_atomically
from jest_tf.monitoring.metrics_log import read_metrics
from jest_tf.monitoring.picks_log import Picks
from jest_tf.results import read_results
from jest_tf.training.assemble import model_size
from jest_tf.training.cost import forward_flops, resize_flops
from jest_tf.training.resolution import Fidelity

FORMAT = 1
AGREEMENT = "agreement.json"  # its name in a workdir
DIGITS = 6  # significant; the rest is noise that makes files large
RECALLS = tuple(f"{way}/recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5))
DIAGNOSTICS = (
    "train/loss",
    "train/learner_scale",
    "train/learner_bias",
    "selection/gain",
    "selection/chosen_score",
    "selection/pool_score",
    "selection/joint_score",
    "selection/joint_score_independent_top_k",
    "selection/joint_score_uniform",
    "selection/overlap_independent_top_k",
    "selection/effective_pool",
)

# Family of suites -> its results, and its page with, beside it, a folder of pictures and tables.
SHIPPED = {
    "full": (Path("benchmarks/evidence/runs/emoji.jsonl.gz"), Path("docs/from_nothing.md")),
    "tuning": (Path("benchmarks/evidence/runs/tuning.jsonl.gz"), Path("docs/results.md")),
    "approximations": (
        Path("benchmarks/evidence/runs/approximations.jsonl.gz"),
        Path("docs/approximations.md"),
    ),
}


def retrieval_score(metrics: Mapping[str, float]) -> float:
    """Mean of R@1 and R@5, image to text and text to image."""
    return sum(metrics[name] for name in RECALLS) / len(RECALLS)


def collect(cell: Cell, workdir: Path, truth: PoolTruth, made: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a finished run.

    Args:
      workdir: of the run.
      truth: of the shipped pool.
      made: `command`, `wall_seconds`, `jobs` and other facts of how it was run.

    Raises:
      UserError: an evaluation is missing.
    """
    config = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    log = list(read_metrics(workdir / "metrics.jsonl"))
    evaluations = read_results(workdir / "evaluations")
    result = {
        "format": FORMAT,
        "cell": cell.name,
        "row": cell.row.name,
        "seed": cell.seed,
        "definition": cell.definition,
        "reference": cell.reference.name if cell.reference else None,
        "made": {**made, **_environment(workdir)},
        "curve": curve(config, log, evaluations, reference_flops(cell, config)),
        "test": _test_part(evaluations, config["total_steps"], workdir),
        "cost": {k.removeprefix("cost/"): v for k, v in _last(log, "cost/").items()},
        "picks": _picks(workdir, truth, config),
        "selection": _diagnostics(log),
        "agreement": _agreement(workdir),
        "config": config,
    }
    return _rounded(result)


def reference_flops(cell: Cell, config: Mapping) -> float:
    """FLOPs per step of the reference's forward passes; 0 where none is used.

    They are a row's cost whether its reference is cached or not: see `curve`. config: of the run,
    whose own sizes are the reference's where both are the base that is tuned.
    """
    if cell.reference is None and not cell.config.reference.cache:
        return 0.0
    of = cell.reference.config if cell.reference else ConfigDict(config)
    model = model_size(of, of.data.vocab_size)
    image = resize_flops(of.data.image_size, model.image_size)
    s = cell.config.selection
    n = s.sub_batch if s.policy == "uniform" else s.super_batch
    return float(n * (forward_flops(model, Fidelity.full(model)) + image))


def curve(
    config: Mapping, log: Sequence[Mapping], evaluations: Sequence[Mapping], reference_flops: float
) -> dict[str, list[float]]:
    """Scores on the validation part and what they had cost, from step 0 on.

    Step 0 is what chance gives, or the base that is tuned. A run without a validation part has the
    scores of its test part. Columns: `step`, `loaded`, `scored` and `trained` examples,
    `flops_cached` (reference embeddings stored with the data, so without the reference's forward
    passes), `flops` (with them: `reference_flops` a step more), `seconds` (of steps and input;
    neither compiling nor evaluating), `retrieval` (see `retrieval_score`) and `zero_shot` (top-1
    accuracy).
    """
    part = "validation" if "retrieval_validation" in config["evals"] else "test"
    retrieval = _of_part(evaluations, "retrieval", part)
    zero_shot = _of_part(evaluations, "zero_shot", part)
    steps = sorted(set(retrieval) & set(zero_shot))
    if not steps:
        raise UserError(f"run {config['name']}: no evaluation on the {part} part was found.")
    start = _start(retrieval[steps[0]], zero_shot[steps[0]])
    steps = [step for step in steps if step]
    costs = [line for line in log if "cost/steps" in line]
    at = [0, *(line["step"] for line in costs)]

    def cost(name: str, without: str = "") -> list[float]:
        spent = [0.0]
        spent += [line[name] - (line.get(without, 0.0) if without else 0.0) for line in costs]
        return [0.0, *np.interp(steps, at, spent).tolist()]

    flops_cached = cost("cost/flops", "cost/flops/score_reference")
    return {
        "step": [0, *steps],
        "loaded": [step * config["selection"]["super_batch"] for step in (0, *steps)],
        "scored": cost("cost/examples_scored"),
        "trained": cost("cost/examples_trained"),
        "flops": [
            f + step * reference_flops for f, step in zip(flops_cached, (0, *steps), strict=True)
        ],
        "flops_cached": flops_cached,
        "seconds": cost("cost/seconds", "cost/seconds/compile"),
        "retrieval": [start[0], *(retrieval_score(retrieval[s]["metrics"]) for s in steps)],
        "zero_shot": [start[1], *(zero_shot[s]["metrics"]["top1"] for s in steps)],
    }


def _start(retrieval: Mapping, zero_shot: Mapping) -> tuple[float, float]:
    """Both scores at step 0: measured, or what chance gives."""
    if retrieval["step"] == 0:
        return tuple(_scores(retrieval, zero_shot).values())
    found = retrieval["data"]["evaluated"]
    chance = sum((1 / n + 5 / n) / 4 for n in (found["n_texts"], found["n_examples"]))
    return chance, 1 / zero_shot["data"]["evaluated"]["n_classes"]


class Store:
    """The results of one experiment, in one file of gzipped JSON lines.

    Lines are in the order of the runs' names, so the same results give the same bytes. Read it with
    `pandas.read_json(path, lines=True)`.

    Args:
      path: of the file; it need not exist yet.
    """

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict[str, dict[str, Any]]:
        """Name of the run -> its result; empty if there is no file.

        Raises:
          UserError: the file holds something else.
        """
        if not self.path.exists():
            return {}
        try:
            with gzip.open(self.path, "rt", encoding="utf-8") as file:
                found = [json.loads(line) for line in file]
            formats = {result["format"] for result in found}
            by_name = {result["cell"]: result for result in found}
        except (ValueError, KeyError, TypeError, OSError, EOFError, zlib.error) as error:
            raise UserError(
                f"{self.path} does not hold results of runs, one JSON object a line, gzipped "
                f"({error}). Restore it from git, or remove it to run everything again."
            ) from error
        if formats - {FORMAT}:
            raise UserError(
                f"{self.path} has results of format {max(formats)}, expected {FORMAT}. Remove it."
            )
        return by_name

    def add(self, result: Mapping[str, Any]) -> None:
        """Keeps a result in place of an earlier one of the same run."""
        kept = self.read() | {result["cell"]: result}
        lines = (json.dumps(kept[name], sort_keys=True) + "\n" for name in sorted(kept))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, gzip.compress("".join(lines).encode(), mtime=0))


def _of_part(evaluations: Sequence[Mapping], kind: str, part: str) -> dict[int, Mapping]:
    """step -> evaluation of this kind on this part of the data."""
    name = kind if part == "test" else f"{kind}_{part}"
    return {e["step"]: e for e in evaluations if e["name"] == name}


def _test_part(evaluations: Sequence[Mapping], step: int, workdir: Path) -> dict[str, Any]:
    """Scores and metrics at the end; `base` has the scores of the base that is tuned."""
    found = {kind: _of_part(evaluations, kind, "test") for kind in ("retrieval", "zero_shot")}
    for kind, by_step in found.items():
        if [at for at in by_step if at] != [step]:
            raise UserError(
                f"{workdir}: expected one {kind} evaluation of the test part, at step {step}; "
                f"found steps {sorted(by_step)}."
            )
    scores = {at: _scores(*(found[kind][at] for kind in found)) for at in found["retrieval"]}
    metrics = {kind: dict(by_step[step]["metrics"]) for kind, by_step in found.items()}
    return {**scores[step], "metrics": metrics, "base": scores.get(0)}


def _scores(retrieval: Mapping, zero_shot: Mapping) -> dict[str, float]:
    return {
        "retrieval": retrieval_score(retrieval["metrics"]),
        "zero_shot": zero_shot["metrics"]["top1"],
    }


def _environment(workdir: Path) -> dict[str, Any]:
    of_run = json.loads((workdir / "environment.json").read_text(encoding="utf-8"))
    kept = ("git", "cpu", "n_cpus", "memory_bytes", "python", "started_utc")
    packages = of_run["packages"]
    return {name: of_run[name] for name in kept} | {
        "packages": {name: packages[name] for name in ("tensorflow", "keras", "numpy")},
        "sittings": 1 + len(of_run.get("earlier", [])),
    }


def _last(log: Sequence[Mapping], prefix: str) -> dict[str, Any]:
    last: dict[str, Any] = {}
    for line in log:
        last |= {k: v for k, v in line.items() if k.startswith(prefix)}
    return last


def _picks(workdir: Path, truth: PoolTruth, config: Mapping) -> dict[str, Any] | None:
    """None for runs whose data is not the pool: its ids mean other rows."""
    if any(other in config["data"]["train"] for other in ("curated", "photos")):
        return None
    validation = config["evals"].get("retrieval_validation", {})
    every = validation.get("every_steps") or config["total_steps"]
    picks = Picks(workdir / "picks")
    return describe_picks(picks, truth, every, config["optimizer"]["warmup_steps"])


def _diagnostics(log: Sequence[Mapping]) -> dict[str, list]:
    lines = [line for line in log if "train/loss" in line]
    names = [name for name in DIAGNOSTICS if lines and name in lines[-1]]
    columns = {name: [line.get(name) for line in lines] for name in names}
    return {"step": [line["step"] for line in lines]} | columns


def _agreement(workdir: Path) -> dict[str, list[float]] | None:
    path = workdir / AGREEMENT
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        if not np.isfinite(value):
            return str(value)
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return value
