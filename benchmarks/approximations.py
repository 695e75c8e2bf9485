"""Do cheap scores pick what full scores pick? Measured at every checkpoint of a finished run.

    python -m benchmarks.approximations --workdir=runs/joint --data_dir=data/prepared
    python -m benchmarks.approximations --workdir=runs/joint --score=resolution=48/16,n_tokens=8
    python -m benchmarks.approximations --workdir=runs/joint --out=agreement.json

The same super-batches of the run's own data are scored by the learner at full fidelity and at the
approximation, and selected from with the same draws. Prints one JSON object per line and
checkpoint: `picks_overlap` (share of the full scores' picks that the cheap scores pick too),
`redrawn_overlap` (the same for full scores with other draws: what chance in the draws alone leaves
in common) and `rank_correlation` (Spearman's, of the criterion of each candidate alone).
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator

import ml_collections
import numpy as np
import tensorflow as tf
from absl import flags

from benchmarks.figures import emit
from jest_tf import cli
from jest_tf.config import nearest
from jest_tf.data.pipeline import super_batches
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.data.sources import open_source
from jest_tf.errors import UserError
from jest_tf.files import write_atomically
from jest_tf.selection import LOCAL, select
from jest_tf.selection.scores import terms
from jest_tf.selection.select import pool
from jest_tf.training import assemble
from jest_tf.training.jest_model import JestModel
from jest_tf.training.resolution import StepPlan
from jest_tf.training.run import restore
from jest_tf.training.run.checkpoint import Checkpointer

FLAGS = flags.FlagValues()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a finished run with a selecting policy.", flag_values=FLAGS
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Where the data are prepared; default: the run's.", flag_values=FLAGS
)
_SCORE = flags.DEFINE_string(
    "score",
    "",
    "FIELD=VALUE,… of config.resolution.score; default: the run's own.",
    flag_values=FLAGS,
)
_OUT = flags.DEFINE_string(
    "out", "", "JSON file to write the same figures to, as columns.", flag_values=FLAGS
)
_BATCHES = flags.DEFINE_integer(
    "batches", 4, "Super-batches per checkpoint.", lower_bound=1, flag_values=FLAGS
)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Cheap against full scores of one model, means over super-batches; shares and ρ in -1..1."""

    picks_overlap: float
    redrawn_overlap: float
    rank_correlation: float


def main(argv: list[str]) -> None:
    """Prints the figures of every checkpoint of --workdir."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags are written --name=value.")
    if not _WORKDIR.value:
        raise UserError("give --workdir, the folder of a finished run")
    run = restore.load_workdir(_WORKDIR.value)
    config = run.config
    if config.selection.policy == "uniform":
        raise UserError(f"{_WORKDIR.value} selects nothing (policy uniform): it has no scores.")
    config.data.data_dir = _DATA_DIR.value or config.data.data_dir
    for field, value in _parse(_SCORE.value, config.resolution.score):
        config.resolution.score[field] = value
    checkpoints = Checkpointer(os.path.join(_WORKDIR.value, "checkpoints"), config.checkpoint.keep)
    manifest = open_source(config.data.train, config.data.data_dir)
    cache = restore.open_cache(config, manifest)
    schedule = assemble.resolution_schedule(config, run.model.config, None, n_replicas=1)
    plan = schedule.plan(config.total_steps - 1)
    model = scoring_model(config, run, plan, cache)
    batches = list(_batches(config, run, manifest, cache))
    columns: dict[str, list[float]] = {"step": []}
    for step in checkpoints.steps():
        checkpoints.restore(restore.learner_variables(run.model), step, only=restore.LEARNER)
        found = agreement(model, plan, batches)
        context = {"run": config.name, "seed": config.seed, "step": step, "score": str(plan.score)}
        columns["step"].append(step)
        for figure, value in dataclasses.asdict(found).items():
            columns.setdefault(figure, []).append(value)
            emit(figure, value, "", "1", repeats=len(batches), context=context)
    if _OUT.value:
        write_atomically(pathlib.Path(_OUT.value), json.dumps(columns).encode())


def scoring_model(
    config: ml_collections.ConfigDict,
    run: restore.LoadedRun,
    plan: StepPlan,
    cache: ReferenceCache | None,
) -> JestModel:
    """The run's step model around `run.model`, with its reference or the reference's cache."""
    record = pathlib.Path(_WORKDIR.value) / restore.REFERENCE_RECORD
    reference = restore.load_reference(config, run.tokenizer, record)
    return assemble.build_jest_model(
        config,
        run.model,
        reference,
        plan,
        lambda: LOCAL,
        cached_reference=(cache.scale, cache.bias) if cache else None,
    )


def agreement(model: JestModel, plan: StepPlan, batches: list[dict[str, tf.Tensor]]) -> Agreement:
    """How far the plan's scores agree with full ones.

    Args:
      model: whose learner scores. plan: its `score` is the approximation, its last part of `train`
        the fidelity of a full score. batches: super-batches as the pipeline gives them.
    """
    full = dataclasses.replace(plan, score=plan.train[-1].at)
    rows = [
        _agreement_on(model, full, plan, batch, tf.constant([model.seed, k]))
        for k, batch in enumerate(batches)
    ]
    return Agreement(*np.mean(rows, axis=0).tolist())


def _agreement_on(model, full, cheap, batch, seed):
    scored = {name: model.score(batch, at, seed) for name, at in (("full", full), ("cheap", cheap))}
    picks = {name: select(model.spec, *s).positions.numpy() for name, s in scored.items()}
    redrawn = scored["full"]._replace(seed=seed + [1, 0])
    picks["redrawn"] = select(model.spec, *redrawn).positions.numpy()
    alone = [_alone(model.spec, s) for s in scored.values()]
    return (
        len(np.intersect1d(picks["full"], picks["cheap"])) / model.spec.sub_batch,
        len(np.intersect1d(picks["full"], picks["redrawn"])) / model.spec.sub_batch,
        rank_correlation(*alone),
    )


def _alone(spec, scored):
    """The criterion of each valid candidate alone, [n_valid]."""
    models = terms(spec, scored.learner, scored.reference)
    _, s_ii, _ = pool(spec.loss, models, scored.valid)
    return s_ii.numpy()[scored.valid.numpy()]


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's ρ of two samples without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (x, y)]
    return float(np.corrcoef(*ranks)[0, 1])


def _batches(config, run, manifest, cache) -> Iterator[dict[str, tf.Tensor]]:
    """Super-batches from beyond the run's last step: the learner has not trained on their order."""
    batches = super_batches(
        manifest,
        run.tokenizer,
        super_batch=config.selection.super_batch,
        image_size=config.data.image_size,
        seed=config.seed,
        start_step=config.total_steps,
        n_lanes=config.data.n_lanes,
        reference_cache=cache,
    )
    return iter(batches.take(_BATCHES.value))


def _parse(text: str, fields: ml_collections.ConfigDict) -> Iterator[tuple[str, str | int]]:
    for item in filter(None, text.split(",")):
        field, _, value = item.partition("=")
        if field not in fields:
            raise UserError(
                f"--score: {field!r} is no field of config.resolution.score"
                f"{nearest(field, fields)}. Valid: {', '.join(fields)}."
            )
        yield field, type(fields[field])(value)


if __name__ == "__main__":
    cli.run(main, FLAGS)
