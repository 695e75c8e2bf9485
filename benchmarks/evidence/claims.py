"""The figures that were promised and the paper's qualitative claims, each with its numbers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.evidence import suites
from benchmarks.evidence.analysis import (
    RowResults,
    not_higher,
    paired,
    speedup,
    truth_of,
)
from benchmarks.evidence.curves import Mean
from benchmarks.evidence.markdown import points

Rows = Mapping[str, RowResults]
TIMES, PERCENT, POINTS = "x", "%", "points"
CONFIRMED, REFUTED, OPEN = "confirmed", "refuted", "undecided"
MARGIN = 0.005  # of a score: what may be called no difference


class Figure(NamedTuple):
    """One promised figure. `value` None: not measured yet.

    unit: TIMES (value is a ratio), PERCENT or POINTS (value is a share of 0..1, or a difference).
    """

    name: str
    goal: str
    value: float | None
    error: float | None
    reached: bool | None
    detail: str
    unit: str = ""

    @property
    def is_speed(self) -> bool:
        return "speedup" in self.name


class Claim(NamedTuple):
    """A claim of the paper, and the comparisons that decide it."""

    text: str
    verdict: str
    numbers: tuple[str, ...]


def figures(rows: Rows, pool: Mapping[str, Any]) -> list[Figure]:
    """The figures of the project's goals, in their order."""
    return [
        _speedup_figure(
            "steps_speedup", rows, suites.JOINT, "step", 13,
            "steps to reach uniform's final score, joint learnability",
        ),
        _speedup_figure(
            "steps_speedup, distilled", rows, suites.DISTILLED, "step", 13,
            "the same, distilling the reference's softmax (ACED), which the paper does not do",
        ),
        _speedup_figure(
            "steps_speedup, remedies", rows, suites.HALF_WEIGHT, "step", 13,
            "the same, the learner's loss counted half in the score",
        ),
        _speedup_figure(
            "flops_speedup", rows, suites.FLEXI, "flops_cached", 10,
            "FLOPs to the same point, Flexi-JEST with the reference's embeddings cached",
        ),
        _speedup_figure(
            "flops_speedup, distilled", rows, suites.FLEXI_DISTILLED, "flops_cached", 10,
            "the same, distilling the reference's softmax",
        ),
        _speedup_figure(
            "flops_speedup, remedies", rows, suites.FLEXI_HALF_WEIGHT, "flops_cached", 10,
            "the same, the learner's loss counted half, pictures stored as small as scores read",
        ),
        _at_every_seed(
            "score_gain against uniform", "higher at every seed",
            rows, suites.JOINT, suites.SAME_STEPS,
            "final test retrieval score at equal steps, joint minus uniform",
        ),
        _gain_over_top_k(
            "score_gain against independent top-k", rows, suites.JOINT,
            "final test retrieval score at equal steps, joint minus independent top-k",
        ),
        _gain_over_top_k(
            "score_gain against independent top-k, greedy", rows, "greedy",
            "the same, taking the best instead of drawing",
        ),
        _broken_share(
            "noisy_share", rows, suites.JOINT, pool,
            "noisy pairs among the selected after warm-up, joint learnability (pool: 40%)",
        ),
        _broken_share(
            "noisy_share, learner's weight 0.5", rows, "weight50", pool,
            "the same, the learner's loss counted half",
        ),
        _at_every_seed(
            "over_reference", "higher", rows, suites.JOINT, suites.CURATED,
            "final test retrieval score, joint learner minus its own reference",
        ),
        _at_every_seed(
            "over_reference, as many steps", "higher", rows, suites.JOINT_LONG, suites.CURATED,
            "the same after as many steps as the reference",
        ),
        _at_every_seed(
            "over_reference, distilled", "higher", rows, suites.DISTILLED_LONG, suites.CURATED,
            "the same after as many steps as the reference, distilling its softmax",
        ),
    ]  # fmt: skip


def _speedup_figure(name: str, rows: Rows, row: str, axis: str, goal: float, text: str) -> Figure:
    if row not in rows or suites.UNIFORM not in rows:
        return _unmeasured(name, f"≥ {goal}x", text)
    found = speedup(rows[row], rows[suites.UNIFORM], axis, "retrieval")
    detail = f"{text}; {found.n_reached} of {found.n_seeds} seeds got there"
    if found.ratio is None:
        return Figure(name, f"≥ {goal}x", None, None, False, detail)
    reached = found.ratio.mean >= goal and found.n_reached == found.n_seeds
    return Figure(name, f"≥ {goal}x", found.ratio.mean, found.ratio.error, reached, detail, TIMES)


def _at_every_seed(name: str, goal: str, rows: Rows, row: str, than: str, text: str) -> Figure:
    """Reached if no seed contradicts: a mean above 0 that some do is no more than a hint."""
    gain = _difference(rows, row, than)
    if gain is None:
        return _unmeasured(name, goal, text)
    worse = not_higher(rows[row].test(), rows[than].test())
    detail = f"{text}; not higher at {len(worse)} of {gain.n} seeds"
    return Figure(name, goal, gain.mean, gain.error, not worse, detail, POINTS)


def _gain_over_top_k(name: str, rows: Rows, row: str, text: str) -> Figure:
    goal, gain = "> 2 standard errors", _difference(rows, row, suites.TOP_K)
    if gain is None:
        return _unmeasured(name, goal, text)
    other = paired(rows[row].validation(), rows[suites.TOP_K].validation())
    detail = f"{text}; on the validation part {points(other)}"
    reached = gain.mean > 0 and gain.beyond_noise
    return Figure(name, goal, gain.mean, gain.error, reached, detail, POINTS)


def _broken_share(name: str, rows: Rows, row: str, pool: Mapping, text: str) -> Figure:
    goal = "≤ 4%"
    if row not in rows:
        return _unmeasured(name, goal, text)
    share = truth_of(rows[row], pool)["broken"]
    return Figure(name, goal, share.mean, share.error, share.mean <= 0.04, text, PERCENT)


def _unmeasured(name: str, goal: str, text: str) -> Figure:
    return Figure(name, goal, None, None, None, text)


def claims(rows: Rows) -> list[Claim]:
    """The paper's qualitative claims; those whose rows are missing are left out."""
    found = [
        _higher(
            rows, "Joint selection beats independent selection.",
            [(suites.JOINT, suites.TOP_K), (suites.JOINT, "independent_sampled")],
        ),
        _higher(
            rows, "Learnability beats easy-reference, which beats hard-learner (f = 0.8).",
            [(suites.JOINT, "easy"), ("easy", "hard")],
        ),
        _enough(rows, "16 chunks are enough.", "chunks64", suites.JOINT),
        _higher(
            rows, "A small curated reference beats a larger dirty one.",
            [(suites.JOINT, "dirty_reference")],
        ),
        _higher(
            rows, "Training at low resolution makes cheap scores good.",
            [(suites.FLEXI, "flexi_untrained")],
        ),
        _higher(
            rows, "The learner surpasses its reference.", [(suites.JOINT_LONG, suites.CURATED)]
        ),
    ]  # fmt: skip
    return [claim for claim in found if claim is not None]


def _higher(rows: Rows, text: str, pairs: list[tuple[str, str]]) -> Claim | None:
    """Confirmed if every first is above its second beyond doubt, refuted if any is below.

    Beyond doubt: the 95% interval of the difference on the test part, paired by seed, excludes 0.
    """
    measured = [(a, b, _difference(rows, a, b)) for a, b in pairs]
    if any(difference is None for _, _, difference in measured):
        return None
    verdicts = [verdict(difference) for _, _, difference in measured]
    if REFUTED in verdicts:
        found = REFUTED
    else:
        found = CONFIRMED if set(verdicts) == {CONFIRMED} else OPEN
    return Claim(text, found, tuple(_sentence(rows, *m) for m in measured))


def _enough(rows: Rows, text: str, more: str, enough: str) -> Claim | None:
    """An equivalence: confirmed if the whole interval of the difference is within ±MARGIN.

    That no difference was seen confirms nothing: a wide interval holds large ones too. Refuted if
    the whole interval is outside.
    """
    difference = _difference(rows, more, enough)
    if difference is None:
        return None
    verdict = equivalent(difference)
    return Claim(text, verdict, (_sentence(rows, more, enough, difference),))


def equivalent(difference: Mean) -> str:
    """See `_enough`."""
    low, high = difference.interval
    if low > -MARGIN and high < MARGIN:
        return CONFIRMED
    return REFUTED if low > MARGIN or high < -MARGIN else OPEN


def _difference(rows: Rows, a: str, b: str) -> Mean | None:
    if a not in rows or b not in rows:
        return None
    return paired(rows[a].test(), rows[b].test())


def verdict(difference: Mean) -> str:
    low, high = difference.interval
    return CONFIRMED if low > 0 else REFUTED if high < 0 else OPEN


def _sentence(rows: Rows, a: str, b: str, difference: Mean) -> str:
    return (
        f"{rows[a].row.label} minus {rows[b].row.label}: {points(difference)} points, "
        f"{difference.n} seed{'s' if difference.n > 1 else ''}"
    )
