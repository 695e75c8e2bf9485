"""From the results of the cells to the tables of the page. Plain numbers in, plain numbers out.

Curves are of the validation part; final scores are of the test part. Shares and scores in 0..1.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.evidence import picks
from benchmarks.evidence.curves import Mean, Reading, mean_of, reached_at, value_at
from benchmarks.evidence.grid import RATE, TRIAL, Row, tried_for
from examples.emoji.builder import NOISY

# Column of a curve -> what it is called. The order is that of tables and plots.
AXES = {
    "step": "steps",
    "flops": "FLOPs",
    "flops_cached": "FLOPs, reference cached",
    "seconds": "seconds",
    "loaded": "loaded examples",
}
SCORES = {"retrieval": "retrieval", "zero_shot": "zero-shot"}


class RowResults(NamedTuple):
    """A row and the results of its finished cells, by seed."""

    row: Row
    by_seed: dict[int, Mapping[str, Any]]

    @property
    def cells(self) -> list[Mapping[str, Any]]:
        return list(self.by_seed.values())

    @property
    def one(self) -> Mapping[str, Any]:
        """Any cell: for what all seeds share, such as sizes."""
        return self.cells[0]

    def test(self, score: str = "retrieval") -> dict[int, float]:
        """Seed -> final score on the test part."""
        return {seed: cell["test"][score] for seed, cell in self.by_seed.items()}

    def validation(self, score: str = "retrieval") -> dict[int, float]:
        """Seed -> final score on the validation part."""
        return {seed: cell["curve"][score][-1] for seed, cell in self.by_seed.items()}

    def test_mean(self, score: str = "retrieval") -> Mean:
        return mean_of(list(self.test(score).values()))


def by_row(rows: Iterable[Row], results: Mapping[str, Mapping]) -> dict[str, RowResults]:
    """Row name -> its finished cells; rows without any are left out, and so are trials."""
    found = {}
    for row in rows:
        cells = {seed: results.get(f"{row.name}-s{seed}") for seed in sorted(row.seeds)}
        cells = {seed: cell for seed, cell in cells.items() if cell is not None}
        if cells and row.group != TRIAL:
            found[row.name] = RowResults(row, cells)
    return found


class Speedup(NamedTuple):
    """How much less than the baseline a row spends until it has the baseline's final score.

    spent: per seed that got there, in units of the axis. ratio: the baseline's whole spending
    divided by that. n_reached of n_seeds; the others are not in the means.
    """

    spent: Mean | None
    ratio: Mean | None
    n_reached: int
    n_seeds: int


def target_of(baseline: RowResults, score: str) -> float:
    """The score to reach: the baseline's at its end, mean over seeds, on the validation part."""
    return mean_of(list(baseline.validation(score).values())).mean


def spent_by(row: RowResults, axis: str) -> float:
    """What a whole run of the row spends, mean over seeds."""
    return mean_of([cell["curve"][axis][-1] for cell in row.cells]).mean


def speedup(row: RowResults, baseline: RowResults, axis: str, score: str) -> Speedup:
    """See `Speedup`."""
    target = target_of(baseline, score)
    whole = spent_by(baseline, axis)
    spent = [reached_at(cell["curve"][axis], cell["curve"][score], target) for cell in row.cells]
    spent = [value for value in spent if value]  # 0: the target is no better than chance
    ratios = [whole / value for value in spent]
    return Speedup(mean_of(spent), mean_of(ratios), len(spent), len(row.cells))


def with_reference(
    row: RowResults, rows: Mapping[str, RowResults], score: str, uniform: str = "uniform"
) -> Mean | None:
    """FLOPs of the baseline's whole run over those of the row, the reference's training counted.

    None where the row never reaches the target, or the reference is not among `rows`. uniform: name
    of the baseline.
    """
    baseline = rows[uniform]
    if not row.row.reference or row.row.name == uniform:
        return speedup(row, baseline, "flops", score).ratio
    if row.row.reference not in rows:
        return None
    training, target = spent_by(rows[row.row.reference], "flops"), target_of(baseline, score)
    spent = [reached_at(c["curve"]["flops_cached"], c["curve"][score], target) for c in row.cells]
    whole = spent_by(baseline, "flops")
    return mean_of([whole / (training + value) for value in spent if value])


def at_equal(row: RowResults, axis: str, budget: float, score: str) -> tuple[Mean, bool]:
    """Score at a budget, mean over seeds, and whether the row's runs end before it."""
    readings: list[Reading] = [
        value_at(cell["curve"][axis], cell["curve"][score], budget) for cell in row.cells
    ]
    return mean_of([r.value for r in readings]), any(r.ended for r in readings)


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Mean | None:
    """a - b over the seeds that both have: the same seed reads the data in the same order."""
    return mean_of([a[seed] - b[seed] for seed in sorted(set(a) & set(b))])


def truth_of(row: RowResults, pool: Mapping[str, Any]) -> dict[str, Mean] | None:
    """What the row picked after warm-up, mean over seeds; None where the data is not the pool.

    Shares of every kind of noise, `clean`, `broken`, `pair_seen`, `image_seen`; where something is
    rejected `filter_ratio`, `rejected_precision`, `broken_rejected` and as much of each kind that
    is broken; over the whole run `distinct` rows and `concepts`.
    """
    cells = [cell for cell in row.cells if cell["picks"] is not None]
    if not cells:
        return None
    columns: dict[str, list[float]] = {}
    for cell in cells:
        for name, value in _truth_of_cell(cell, pool).items():
            columns.setdefault(name, []).append(value)
    return {name: mean_of(values) for name, values in columns.items()}


def _truth_of_cell(cell: Mapping[str, Any], pool: Mapping[str, Any]) -> dict[str, float]:
    after, of_all = cell["picks"]["after_warmup"], cell["picks"]["all"]
    selection = cell["config"]["selection"]
    ratio = 1 - selection["sub_batch"] / selection["super_batch"]
    is_broken = picks.broken(after)
    values = dict(after["shares"]) | {
        "clean": picks.clean(after),
        "broken": is_broken,
        "pair_seen": after["pair_seen"],
        "image_seen": after["image_seen"],
        "distinct": of_all["distinct"],
        "concepts": of_all["concepts"],
    }
    if ratio > 0:
        pool_broken = picks.broken(pool)
        values["filter_ratio"] = ratio
        values["rejected_precision"] = picks.rejected_precision(is_broken, pool_broken, ratio)
        values["broken_rejected"] = picks.rejected(is_broken, pool_broken, ratio)
        for kind in sorted(NOISY & set(pool["shares"])):
            picked = after["shares"].get(kind, 0.0)
            values[f"{kind}_rejected"] = picks.rejected(picked, pool["shares"][kind], ratio)
    return values


class Trials(NamedTuple):
    """The learning rates tried for a row.

    scores: rate -> final validation retrieval score.
    """

    name: str
    scores: dict[float, float]

    @property
    def best(self) -> float:
        return max(self.scores, key=self.scores.__getitem__)


def trials(rows: Iterable[Row], results: Mapping[str, Mapping]) -> list[Trials]:
    """What was tried to choose learning rates, of the trials that are finished."""
    found: dict[str, Trials] = {}
    for row in rows:
        result = results.get(f"{row.name}-s{row.seeds[0]}")
        if row.group == TRIAL and result:
            of_row = found.setdefault(tried_for(row), Trials(tried_for(row), {}))
            of_row.scores[dict(row.overrides)[RATE]] = result["curve"]["retrieval"][-1]
    return list(found.values())


def late_gain(row: RowResults, score: str = "retrieval") -> Mean:
    """What the last fifth of the row's steps adds to its score: little, if it has converged."""
    gains = []
    for cell in row.cells:
        steps, values = cell["curve"]["step"], cell["curve"][score]
        gains.append(values[-1] - value_at(steps, values, 0.8 * steps[-1]).value)
    return mean_of(gains)


def not_higher(a: Mapping[int, float], b: Mapping[int, float]) -> Sequence[int]:
    """The seeds at which a is not higher than b, of those that both have."""
    return [seed for seed in sorted(set(a) & set(b)) if a[seed] <= b[seed]]
