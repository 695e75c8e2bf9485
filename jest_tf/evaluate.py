"""Evaluates a run's checkpoints, or an export, and writes one JSON file per evaluation and step.

    python -m jest_tf.evaluate --workdir=runs/joint
    python -m jest_tf.evaluate --workdir=runs/joint --follow
    python -m jest_tf.evaluate --export=runs/joint/export --out=results
    python -m jest_tf.evaluate --workdir=runs/joint --projector=retrieval

The run's config (`evals`) or a JSON file (`--evals`) says what to evaluate: docs/evaluation.md.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jest_tf import cli, config_flag
from jest_tf.errors import UserError, explaining
from jest_tf.files import parse_json

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
    """Evaluates what the flags name."""
    config_flag.refuse_extra(argv)
    if bool(_WORKDIR.value) == bool(_EXPORT.value):
        raise UserError("give either --workdir (a run) or --export (an exported model)")
    if _FOLLOW.value and not _WORKDIR.value:
        raise UserError("--follow watches the checkpoints of a run: give --workdir")
    if _BEST.value and (not _FOLLOW.value or _BEST.value.count(":") != 1):
        raise UserError("--best takes NAME:METRIC and goes with --follow")
    if _PROJECTOR.value and _FOLLOW.value:
        raise UserError("--projector shows one checkpoint: give it without --follow")
    if _TPU.value and _EXPORT.value:
        raise UserError("--tpu goes with --workdir: an export holds what only GPUs and CPUs run")
    from jest_tf.data.sources import register
    from jest_tf.runtime.strategy import of_machine  # TensorFlow: after the flags

    register(_TFDS_MODULE.value)
    runtime = of_machine(_TPU.value)
    if _EXPORT.value:
        _evaluate_export(_EXPORT.value, runtime)
    elif _FOLLOW.value:
        _follow(_WORKDIR.value, runtime)
    else:
        given, run = _given_specs(), _load(_WORKDIR.value, _STEP.value, runtime)
        _measure(run, _specs(given or run.config.evals.to_dict()), _WORKDIR.value, runtime)


def _evaluate_export(path: str, runtime) -> None:
    from jest_tf.serving.encoders import ExportEncoder

    encoder = ExportEncoder.on_all(path, runtime)
    specs = _specs(_given_specs() or encoder.info["metadata"].get("evals", {}))
    out = _OUT.value or os.path.join(os.path.dirname(os.path.abspath(path)), "evaluations")
    _run_all(specs, encoder, out, _DATA_DIR.value)


def _load(workdir: str, step: int | None, runtime):
    from jest_tf.training.run.restore import load_workdir

    with runtime.strategy.scope():
        return load_workdir(workdir, step)


def _follow(workdir: str, runtime) -> None:
    """Evaluates each checkpoint once, and offers each for the best exports; results are kept."""
    from jest_tf.export import export_run
    from jest_tf.serving.best_exports import BestExports
    from jest_tf.training.run.checkpoint import Checkpointer, CheckpointNotFound
    from jest_tf.training.run.restore import load_workdir
    from jest_tf.training.run.workdir import stored_config

    _wait_for(os.path.join(workdir, "config.json"), 60.0 * _TIMEOUT_MINUTES.value)
    config = stored_config(workdir)
    total_steps = config["total_steps"]
    specs = _specs(_given_specs() or config["evals"])
    best = BestExports(os.path.join(workdir, "best"), _BEST.value, _N_BEST.value, specs)
    checkpoints = Checkpointer(os.path.join(workdir, "checkpoints"))

    for step in checkpoints.follow(
        timeout_seconds=60.0 * _TIMEOUT_MINUTES.value,
        finished=lambda: total_steps in checkpoints.steps(),
    ):
        try:
            results = _results_at(workdir, step, specs, runtime)
            if _BEST.value and not best.has(step):
                best.offer(
                    step, results,
                    lambda out, step=step: export_run(load_workdir(workdir, step), workdir, out),
                )  # fmt: skip
        except CheckpointNotFound:
            print(f"step {step}: the run has dropped this checkpoint already")


def _results_at(
    workdir: str, step: int, specs: Mapping[str, Any], runtime
) -> dict[str, dict[str, Any]]:
    """The results of a checkpoint: those that are there, or all of them measured now."""
    from jest_tf.results import read_result

    results = {name: read_result(_out(workdir), name, step) for name in specs}
    if all(results.values()):
        return results
    return _measure(_load(workdir, step, runtime), specs, workdir, runtime)


def _wait_for(path: str, seconds: float) -> None:
    """Waits for a run that is just starting."""
    deadline = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() >= deadline:
            raise UserError(f"--follow: {path} did not appear; is --workdir the folder of a run?")
        time.sleep(1.0)


def _measure(run, specs: Mapping[str, Any], workdir: str, runtime) -> dict[str, dict[str, Any]]:
    """The results of a loaded run."""
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
        _project(specs[_PROJECTOR.value]["data"], encoder, out, data_dir)
        return {}
    from jest_tf.evaluation.evaluators import require_data, run_evaluation
    from jest_tf.results import write_result

    for name, spec in specs.items():
        require_data(name, spec, data_dir)
    results, passes = {}, {}
    for name, spec in specs.items():
        results[name] = run_evaluation(name, spec, encoder, data_dir, passes)
        path = write_result(out, results[name])
        numbers = ", ".join(f"{k} {v:.4g}" for k, v in results[name]["metrics"].items())
        print(f"{name} at step {results[name].get('step')}: {numbers}\n  -> {path}", flush=True)
    return results


def _project(data: str, encoder, out: str, data_dir: str | None) -> None:
    from jest_tf.evaluation.evaluators import projection
    from jest_tf.monitoring.projector import write_projector

    folder = os.path.join(os.path.dirname(out.rstrip("/")), "projector")
    z, columns, images = projection(data, encoder, data_dir)
    write_projector(folder, f"{encoder.description['model']} on {data}", z, columns, images)
    print(f"tensorboard --logdir {folder}    # the tab Projector; this folder alone")


def _out(workdir: str) -> str:
    return _OUT.value or os.path.join(workdir, "evaluations")


def _given_specs() -> dict[str, Any]:
    """The content of `--evals`, or nothing."""
    if not _EVALS.value:
        return {}
    text = f"--evals={_EVALS.value}: expected a JSON file {{name: {{kind, data}}}}: "
    with explaining((OSError, ValueError, TypeError), text + "{error}", str):
        return dict(parse_json(Path(_EVALS.value).read_text("utf-8")))


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


if __name__ == "__main__":
    cli.run(main, FLAGS, kept="finished evaluations are kept")
