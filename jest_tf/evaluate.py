"""Evaluates a run's checkpoints, or an export, and writes one JSON file per evaluation and step.

    python -m jest_tf.evaluate --workdir=runs/joint
    python -m jest_tf.evaluate --workdir=runs/joint --follow
    python -m jest_tf.evaluate --export=runs/joint/export --out=results
    python -m jest_tf.evaluate --workdir=runs/joint --projector=retrieval

The run's config (`evals`) or a JSON file (`--evals`) says what to evaluate: docs/evaluation.md.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jest_tf import cli, config_flag
from jest_tf.errors import UserError, explaining
from jest_tf.files import parse_json, step_name, write_atomically

FLAGS, _flag = cli.own_flags()
_WORKDIR = _flag("string", "workdir", None, "Folder of a run.")
_EXPORT = _flag("string", "export", None, "Folder of an export.")
_STEP = _flag("integer", "step", None, "Checkpoint to evaluate; by default the newest.")
_OUT = _flag("string", "out", None, "Where to write; by default `evaluations` in the workdir.")
_EVALS = _flag("string", "evals", None, "JSON file {name: {kind, data, …}} instead of the run's.")
_ONLY = _flag("list", "only", [], "Names of the evaluations to run.")
_DATA_DIR, _TFDS_MODULE = cli.data_flags(_flag, "Where TFDS keeps its sets; by default the run's.")
_FOLLOW = _flag("boolean", "follow", False, "Evaluate every checkpoint as it comes, until the end.")
_TIMEOUT_MINUTES = _flag("float", "timeout_minutes", 60.0, "--follow: give up after so long.")
_BEST = _flag(
    "string", "best", None, "--follow: keep exports of the best checkpoints by NAME:METRIC, e.g. "
    "retrieval:image_to_text/recall@10.",
)  # fmt: skip
_N_BEST = _flag("integer", "n_best", 3, "How many exports --best keeps.", lower_bound=1)
_PROJECTOR = _flag(
    "string", "projector", None, "Name of an evaluation: write its images' embeddings for "
    "TensorBoard's projector, instead.",
)  # fmt: skip
_TPU = cli.tpu_flag(_flag)


def main(argv: list[str]) -> None:
    config_flag.refuse_extra(argv)
    if bool(_WORKDIR.value) == bool(_EXPORT.value):
        raise UserError("give either --workdir (a run) or --export (an exported model)")
    if _FOLLOW.value and not _WORKDIR.value:
        raise UserError("--follow watches the checkpoints of a run: give --workdir")
    if _BEST.value and (not _FOLLOW.value or _BEST.value.count(":") != 1):
        raise UserError("--best takes NAME:METRIC and goes with --follow")
    if _PROJECTOR.value and _FOLLOW.value:
        raise UserError("--projector shows one checkpoint: give it without --follow")
    if _STEP.value is not None and (_FOLLOW.value or _EXPORT.value):
        raise UserError("--step chooses one checkpoint of a run: give it with --workdir alone")
    if _TPU.value and _EXPORT.value:
        raise UserError("--tpu goes with --workdir: an export holds what only GPUs and CPUs run")
    from jest_tf.data.sources import register
    from jest_tf.runtime.strategy import of_machine  # TensorFlow: after the flags

    register(_TFDS_MODULE.value)
    runtime = of_machine(_TPU.value)
    if path := _EXPORT.value:
        from jest_tf.serving.encoders import ExportEncoder

        encoder = ExportEncoder.on_all(path, runtime)
        specs = _specs(_given_specs() or encoder.info["metadata"].get("evals", {}))
        out = _OUT.value or os.path.join(os.path.dirname(os.path.abspath(path)), "evaluations")
        _run_all(specs, encoder, out, _DATA_DIR.value)
    elif _FOLLOW.value:
        _follow(_WORKDIR.value, runtime)
    else:
        given, run = _given_specs(), _load(_WORKDIR.value, _STEP.value, runtime)
        _measure(run, _specs_of(run.config, given), _WORKDIR.value, runtime)


def _load(workdir: str, step: int | None, runtime):
    from jest_tf.training.run.restore import load_workdir

    with runtime.strategy.scope():
        return load_workdir(workdir, step)


def _follow(workdir: str, runtime) -> None:
    """Evaluates each checkpoint once, and offers each for the best exports; results are kept."""
    from jest_tf.evaluation.evaluators import is_result_of
    from jest_tf.export import export_run
    from jest_tf.results import read_result
    from jest_tf.training.run.checkpoint import Checkpointer, CheckpointNotFound
    from jest_tf.training.run.restore import load_workdir
    from jest_tf.training.run.workdir import stored_config

    _wait_for(os.path.join(workdir, "config.json"), 60.0 * _TIMEOUT_MINUTES.value)
    config = stored_config(workdir)
    total_steps, data_dir = config["total_steps"], _DATA_DIR.value or config["data"]["data_dir"]
    specs = _specs_of(config, _given_specs())
    best = BestExports(os.path.join(workdir, "best"), _BEST.value, _N_BEST.value, specs)
    checkpoints = Checkpointer(os.path.join(workdir, "checkpoints"))

    for step in checkpoints.follow(
        timeout_seconds=60.0 * _TIMEOUT_MINUTES.value,
        finished=lambda: total_steps in checkpoints.steps(),
    ):
        try:
            results = {name: read_result(_out(workdir), name, step) for name in specs}
            if all(r and is_result_of(r, n, specs[n], data_dir) for n, r in results.items()):
                print(f"step {step}: its results are in {_out(workdir)}")
            else:
                results = _measure(_load(workdir, step, runtime), specs, workdir, runtime)
            if _BEST.value and not best.has(step):
                best.offer(
                    step, results,
                    lambda out, step=step: export_run(load_workdir(workdir, step), workdir, out),
                )  # fmt: skip
        except CheckpointNotFound:
            print(f"step {step}: the run has dropped this checkpoint already")


def _wait_for(path: str, seconds: float) -> None:
    """Waits for a run that is just starting."""
    deadline = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() >= deadline:
            raise UserError(f"--follow: {path} did not appear; is --workdir the folder of a run?")
        time.sleep(1.0)


def _measure(run, specs: Mapping[str, Any], workdir: str, runtime) -> dict[str, dict[str, Any]]:
    from jest_tf.serving.encoders import ModelEncoder

    config = run.config
    description = {
        "model": config.name,
        "checkpoint": f"{workdir} at step {run.step}",
        "step": run.step,
        "cost": run.state.get("ledger"),
    }
    sizes = config.model.image_size, config.data.image_size
    encoder = ModelEncoder(run.model, run.tokenizer, *sizes, description, runtime.by_rows)
    return _run_all(specs, encoder, _out(workdir), _DATA_DIR.value or config.data.data_dir)


def _run_all(
    specs: Mapping[str, Mapping[str, Any]], encoder, out: str, data_dir: str | None
) -> dict[str, dict[str, Any]]:
    """Runs, writes and prints all evaluations; returns the results by name."""
    if _PROJECTOR.value:
        from jest_tf.evaluation.evaluators import projection
        from jest_tf.monitoring.projector import write_projector

        data, folder = specs[_PROJECTOR.value]["data"], os.path.join(out, "..", "projector")
        folder = os.path.normpath(folder)
        z, columns, images = projection(data, encoder, data_dir)
        write_projector(folder, f"{encoder.description['model']} on {data}", z, columns, images)
        print(f"tensorboard --logdir {folder}    # the tab Projector; this folder alone")
        return {}
    from jest_tf.evaluation.evaluators import require_data, run_evaluation
    from jest_tf.results import write_result

    os.makedirs(out, exist_ok=True)  # a place that cannot be written is told before the work
    for name, spec in specs.items():
        require_data(name, spec, data_dir)
    results, passes = {}, {}
    for name, spec in specs.items():
        results[name] = run_evaluation(name, spec, encoder, data_dir, passes)
        path = write_result(out, results[name])
        numbers = ", ".join(f"{k} {v:.4g}" for k, v in results[name]["metrics"].items())
        print(f"{name} at step {results[name].get('step')}: {numbers}\n  -> {path}", flush=True)
    return results


def _out(workdir: str) -> str:
    return _OUT.value or os.path.join(workdir, "evaluations")


def _specs_of(config, given: Mapping[str, Any]) -> dict[str, Any]:
    """The checked specs for a run with this config: those `given` by `--evals`, or its own."""
    from jest_tf.evaluation.evaluators import asked

    own = config.evals.to_dict()
    specs = _specs(given or own)
    for name in specs if given and not _OUT.value else ():
        if name in own and asked(name, specs[name]) != asked(name, own[name]):
            raise UserError(
                f"--evals={_EVALS.value}: {name} is the name of another evaluation of the run, "
                "whose results it would replace. Name it otherwise, or give --out."
            )
    return specs


def _given_specs() -> dict[str, Any]:
    """The content of `--evals`, or nothing."""
    if not _EVALS.value:
        return {}
    text = f"--evals={_EVALS.value}: expected a JSON file {{name: {{kind, data}}}}: "
    with explaining((OSError, ValueError, TypeError), text + "{error}", str):
        specs = parse_json(Path(_EVALS.value).read_text("utf-8"))
        if not isinstance(specs, dict) or not specs:
            raise ValueError(f"it holds {str(specs)[:100]}")
        return specs


def _specs(specs: Mapping[str, Any]) -> dict[str, Any]:
    """The checked specs that `--only` names, or all."""
    from jest_tf.evaluation.evaluators import checked_options

    missing = [name for name in _ONLY.value if name not in specs]
    asking = "--only"
    if _PROJECTOR.value and _PROJECTOR.value not in specs:
        asking, missing = "--projector", [_PROJECTOR.value]
    if missing or not specs:
        raise UserError(
            f"there is {', '.join(specs) or 'no evaluation'}, and {asking} asks for "
            f"{', '.join(missing) or 'all'}; name evaluations in the run's config (evals) or give "
            "--evals=FILE"
        )
    chosen = {name: spec for name, spec in specs.items() if not _ONLY.value or name in _ONLY.value}
    for name, spec in chosen.items():
        checked_options(name, spec)
    return chosen


_LIST = "best.json"
# Where less is better; in every other metric of this package more is.
_LESS_IS_BETTER = ("median_rank",)


class BestExports:
    """A folder of at most n exports, `step-00000100` each, and `best.json` with their scores.

    by: `NAME:METRIC`, e.g. `retrieval:image_to_text/recall@10`; None if nothing is offered.
    UserError: it names none of `evaluations`.
    """

    def __init__(
        self, folder: str | os.PathLike, by: str | None, n: int, evaluations: Mapping[str, Any]
    ):
        self.folder, self.n = Path(folder), n
        self.name, _, self.metric = (by or "").partition(":")
        if by and self.name not in evaluations:
            raise UserError(
                f"--best={by}: there is no evaluation {self.name!r}; there are "
                f"{', '.join(evaluations)}"
            )

    def has(self, step: int) -> bool:
        return step in self._kept()

    def offer(
        self, step: int, results: Mapping[str, Mapping[str, Any]], export: Callable[[str], Any]
    ) -> bool:
        """Exports a step that is among the n best, and drops what no longer is; True if kept.

        results: by evaluation. export: writes to a path. UserError: there is no such metric.
        """
        metrics = results[self.name]["metrics"]
        if self.metric not in metrics:
            raise UserError(
                f"evaluation {self.name!r} has no metric {self.metric!r}; it has "
                f"{', '.join(metrics)}"
            )
        ranked = {**self._kept(), step: metrics[self.metric]}
        sign = 1 if self.metric.endswith(_LESS_IS_BETTER) else -1
        # Of equals the earlier step stays: it cost less.
        best = sorted(ranked, key=lambda s: (sign * ranked[s], s))[: self.n]
        if step not in best:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        export(str(self.folder / step_name(step)))
        exports = [{"step": s, "score": ranked[s], "path": step_name(s)} for s in best]
        content = {"by": f"{self.name}:{self.metric}", "exports": exports}
        write_atomically(self.folder / _LIST, json.dumps(content, indent=1))
        for dropped in set(ranked) - set(best):
            shutil.rmtree(self.folder / step_name(dropped), ignore_errors=True)
        return True

    def _kept(self) -> dict[int, float]:
        try:
            content = parse_json((self.folder / _LIST).read_text())
        except FileNotFoundError:
            return {}
        if content["by"] != f"{self.name}:{self.metric}":
            raise UserError(
                f"{self.folder} holds the best exports by {content['by']}, not by "
                f"{self.name}:{self.metric}: remove it, or keep to that metric"
            )
        return {entry["step"]: entry["score"] for entry in content["exports"]}


if __name__ == "__main__":
    cli.run(main, FLAGS, kept="finished evaluations are kept")
