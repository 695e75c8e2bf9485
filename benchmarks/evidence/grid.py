"""What is run: a row is an experiment, a cell is one training run of it (a row at a seed).

A cell may stand on others: the run whose model is its frozen reference, and the trial runs among
which its learning rate is chosen, on the validation part. A reference's embeddings of the pool are
computed once, after its training, for all cells that stand on it.
"""

import dataclasses
import functools
import hashlib
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from jest_tf import config_flag
from jest_tf.config import flat, nearest
from jest_tf.config_checks import problems, require_sound
from jest_tf.errors import UserError

CONFIG = "configs/emoji.py"
HEADLINE, ABLATION, TRIAL = "headline", "ablation", "trial"
RATE = "optimizer.learning_rate"
# Stand for paths that the runner knows.
CLEAN_POOL, REFERENCE, CACHE = "{clean_pool}", "{reference}", "{cache}"
# The imported base that is tuned, its embeddings of the pool, the pairs that it scores best, and
# the prepared photographs.
BASE, BASE_CACHE, BEST_PAIRS, PHOTOS = "{base}", "{base_cache}", "{best_pairs}", "{photos}"
OWN_BEST = "{own_best}"  # the pairs that the cell's own reference scores best
START = "{start}"  # the cell's own reference, where it is tuned
# Parts of the pool: neighbours by the base's text embeddings one after the other, of the better 60%
# of CLIPScore half, rare words first, and the best 10%.
CLUSTERED, BALANCED, TENTH = PARTS = ("{clustered}", "{balanced}", "{tenth}")
# Of the shipped base: a run that starts from it takes them over.
BASE_SIZES = {"data.image_size": 48, "model.image_size": 48, "model.patch_size": 8}


@dataclasses.dataclass(frozen=True)
class Row:
    """One experiment.

    name: of its cells and files. label: in tables. group: headline, ablation or trial.
    argument: behind the colon of `--config=CONFIG:`, without the seed.
    overrides: (field, value) pairs, as `--config.field=value`.
    seeds: one cell each. reference: row whose cell is the frozen reference, of the same seed, or of
    `reference_seed`. caches: whether it reads the reference's embeddings instead of computing them
    at each step. agreement: whether cheap scores are compared with full ones at each of its
    checkpoints. tuned_as: names; the rows `tune_{name}_*` are its learning rate's trials, and the
    rate that is best on average over the names is taken. config: the file.
    """

    name: str
    label: str
    group: str
    argument: str
    overrides: tuple[tuple[str, Any], ...] = ()
    seeds: tuple[int, ...] = (0,)
    reference: str = ""
    reference_seed: int | None = None
    caches: bool = True
    agreement: bool = False
    tuned_as: tuple[str, ...] = ()
    config: str = CONFIG


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training run. `reference` and `trials` must be finished before it starts."""

    row: Row
    seed: int
    reference: "Cell | None" = None
    trials: tuple["Cell", ...] = ()

    @property
    def name(self) -> str:
        return f"{self.row.name}-s{self.seed}"

    @property
    def argument(self) -> str:
        """Behind the colon of `--config=CONFIG:`."""
        return f"{self.row.argument},seed={self.seed}"

    @property
    def needs(self) -> tuple["Cell", ...]:
        return (*self.trials, *([self.reference] if self.reference else []))

    @property
    def reads_cache(self) -> bool:
        return self.reference is not None and self.row.caches

    @functools.cached_property
    def definition(self) -> str:
        """10 hex digits of all that decides what this cell computes, apart from the code."""
        parts = [self.argument, self.row.overrides, [need.definition for need in self.needs]]
        parts += [] if self.row.caches else ["no cache"]
        parts += [] if self.row.config == CONFIG else [self.row.config]
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def folder(self) -> str:
        """Name of its workdir: a changed definition gets a new one."""
        return f"{self.name}-{self.definition}"

    @functools.cached_property
    def config(self) -> ml_collections.ConfigDict:
        """Its config, with placeholders for paths and the default learning rate if that is tuned.

        Raises:
          UserError: an override names no field, or the config is not sound.
        """
        config = config_flag.load(self.row.config, self.argument)
        keys = list(flat(config))
        for field, value in self.row.overrides:
            if field not in keys:
                raise UserError(
                    f"cell {self.name} overrides {field}, which no config has"
                    f"{nearest(field, keys)}."
                )
            config.update_from_flattened_dict({field: value})
        if config.model.init == BASE:
            config.update_from_flattened_dict(BASE_SIZES)
        if self.reference:
            config.reference.workdir = REFERENCE
        if self.reads_cache:
            config.reference.cache = CACHE
        try:
            require_sound(problems(config))
        except UserError as error:
            raise UserError(f"cell {self.name}: {error}") from error
        return config

    @property
    def reads_best(self) -> bool:
        """Whether it trains on the pairs that its reference scores best."""
        return OWN_BEST in dict(self.row.overrides).values()

    @property
    def work(self) -> int:
        """Forward passes of a pair, a training step's counted three times: for estimates only."""
        s = self.config.selection
        n_models = int(s.criterion != "easy_reference")
        n_models += s.criterion != "hard_learner" and not self.config.reference.cache
        scored = 0 if s.policy == "uniform" else n_models * s.super_batch
        return self.config.total_steps * (scored + 3 * s.sub_batch)


def make_cells(
    rows: Iterable[Row], wanted: Sequence[str], overrides: Mapping[str, Any] | None = None
) -> list[Cell]:
    """The cells of the wanted rows and of all that they stand on, each after what it needs.

    All rows at one seed come before the next seed, so that an unfinished suite compares something.

    Args:
      rows: all that are declared.
      wanted: names of those to run.
      overrides: fields set in every cell, such as a smaller model for a test.

    Raises:
      UserError: a row names another that is not declared.
    """
    extra = tuple((overrides or {}).items())
    by_name = {row.name: _with(row, extra) for row in rows}
    made: dict[str, Cell] = {}

    def row_of(name: str) -> Row:
        if name not in by_name:
            raise UserError(f"no row {name!r} is declared{nearest(name, by_name)}.")
        return by_name[name]

    def make(row: Row, seed: int) -> Cell:
        name = f"{row.name}-s{seed}"
        if name not in made:
            trials = _trials_of(row, list(by_name.values()))
            trial_cells = tuple(make(trial, trial.seeds[0]) for trial in trials)
            reference = None
            if row.reference:
                of_seed = seed if row.reference_seed is None else row.reference_seed
                reference = make(row_of(row.reference), of_seed)
            made[name] = Cell(row, seed, reference, trial_cells)
        return made[name]

    wanted_rows = [row_of(name) for name in wanted]
    for seed in sorted({seed for row in wanted_rows for seed in row.seeds}):
        for row in wanted_rows:
            if seed in row.seeds:
                make(row, seed)
    return list(made.values())


def rate_of(cell: Cell, results: Mapping[str, Mapping]) -> float:
    """The cell's learning rate: its own, or that of its best trials on the validation part.

    Args:
      results: cell name -> result (see `results`), at least those of the trials.
    """
    if not cell.trials:
        return cell.config.optimizer.learning_rate
    scores: dict[float, list[float]] = {}
    for trial in cell.trials:
        score = results[trial.name]["curve"]["retrieval"][-1]
        scores.setdefault(trial.config.optimizer.learning_rate, []).append(score)
    return best_rate(scores)


def best_rate(scores: Mapping[float, Sequence[float]]) -> float:
    """The rate with the highest mean of its trials' scores."""
    return max(scores, key=lambda rate: statistics.fmean(scores[rate]))


def tried_for(trial: Row) -> str:
    """`joint` of `tune_joint_0.001`."""
    return trial.name.removeprefix("tune_").rpartition("_")[0]


def _trials_of(row: Row, rows: Sequence[Row]) -> list[Row]:
    trials = [row for row in rows if row.group == TRIAL]
    found = []
    for name in row.tuned_as:
        of_name = [trial for trial in trials if tried_for(trial) == name]
        if not of_name:
            raise UserError(f"row {row.name} is tuned as {name!r}, which has no trial rows.")
        found += of_name
    return found


def _with(row: Row, overrides: tuple[tuple[str, Any], ...]) -> Row:
    return dataclasses.replace(row, overrides=row.overrides + overrides) if overrides else row
