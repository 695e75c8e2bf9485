"""A verdict for each pair, from what models make of it, and the rule that gave it.

The reference's rank is the share of other pairs' texts and images that fit a pair better than its
own. A pair put together by chance has a rank above 0.5 as often as below; a sound pair has one near
0. So the ranks above 0.5, mirrored at 0.5, show how many wrong pairs lie at each rank below
(target-decoy estimation, Elias and Gygi 2007). The threshold follows from the data alone.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

VERDICTS = WRONG, LEARNED, USEFUL, DUPLICATE, UNSEEN = (
    "wrong pair", "learned", "useful", "duplicate", "not seen",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """n verdicts. border: distance to the nearest threshold, NaN where none was asked; [n].

    threshold: rank from which a pair is wrong; wrong_share: of the ranked pairs, as
    estimated.
    """

    verdict: np.ndarray
    rule: np.ndarray
    border: np.ndarray
    threshold: float
    wrong_share: float


def wrong_threshold(rank: np.ndarray, wrong_share: float | None = None) -> tuple[float, float]:
    """(the rank from which pairs are judged wrong, estimated share of wrong pairs).

    rank: float [n], NaN without one. wrong_share: judge this share wrong, the highest ranks.
    """
    rank = np.sort(rank[np.isfinite(rank)])
    if not rank.size:
        return np.inf, 0.0
    estimated = min(1.0, 2 * float(np.mean(rank > 0.5)))
    if wrong_share is not None:
        n = round(wrong_share * rank.size)
        return (float(rank[-n]) if n else np.inf), estimated
    candidates = np.append(np.unique(rank[rank <= 0.5]), 0.5 + 1e-9)
    below, above_mirror = (
        np.searchsorted(rank, x, side)
        for x, side in ((candidates, "left"), (1 - candidates, "right"))
    )
    middle = np.searchsorted(rank, 0.5, "right")
    flagged, of_chance = middle - below, np.maximum(0, above_mirror - middle)
    missed = rank.size - np.maximum(above_mirror, middle)
    errors = np.maximum(0, flagged - of_chance) + missed
    return float(candidates[np.argmin(errors)]), estimated


def judge(
    table: Mapping[str, np.ndarray], representative: np.ndarray, wrong_share: float | None = None
) -> Verdicts:
    """The verdicts on n pairs.

    table: columns [n]: readable; times_loaded; wrong_rank or reference_rank; learnability.
    representative: int [n], the first pair of the same picture and caption.
    """
    n = len(representative)
    nothing = np.full(n, np.nan, np.float32)
    ranked_by = "wrong_rank" if "wrong_rank" in table else "reference_rank"
    rank, gain = (table.get(name, nothing) for name in (ranked_by, "learnability"))
    unseen = ~table["readable"] | (table.get("times_loaded", np.ones(n)) == 0)
    threshold, estimated = wrong_threshold(rank, wrong_share)
    scored = np.isfinite(rank) | np.isfinite(gain)
    verdict, rule = np.full(n, USEFUL, object), np.full(n, "", object)
    for rows, name, text in (
        (scored, USEFUL, "not wrong, and not learned as far as is known"),
        (np.isfinite(gain), USEFUL, "the learner's loss is above the reference's"),
        (gain <= 0, LEARNED, "the learner's loss is not above the reference's"),
        (rank >= threshold, WRONG, f"{ranked_by} >= {threshold:.4g}"),
        (~scored, UNSEEN, "loaded, but never scored: the policy asks no model"),
        (unseen, UNSEEN, "never loaded, or not readable"),
        (representative != np.arange(n), DUPLICATE, "same picture and caption as an earlier pair"),
    ):
        verdict[rows], rule[rows] = name, text
    # A rank is a share and a gain has no bound: each in units of its own spread.
    distances = [
        np.abs(x - at) / max(float(np.nanstd(x)), 1e-9) if np.isfinite(x).any() else nothing
        for x, at in ((rank, threshold), (gain, 0.0))
    ]
    border = np.fmin(*distances)
    border[np.isin(verdict, [UNSEEN, DUPLICATE])] = np.nan
    return Verdicts(verdict, rule, border.astype(np.float32), threshold, estimated)


def representatives(*hashes: np.ndarray) -> np.ndarray:
    """int64 [n]: the first row with the same value in all of `hashes` (int64, 64-bit hashes)."""
    mixed = np.zeros(len(hashes[0]), np.uint64)
    for values in hashes:  # one hash of them all: sorting rows would take five times the memory
        for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):  # of SplitMix64
            mixed ^= mixed >> np.uint64(30)
            mixed *= np.uint64(factor)
        mixed ^= values.view(np.uint64)
    order = np.argsort(mixed, kind="stable")
    mixed = mixed[order]
    starts = np.flatnonzero(np.append(True, mixed[1:] != mixed[:-1])[: len(order)])
    del mixed
    first = np.empty_like(order)
    first[order] = np.repeat(order[starts], np.diff(starts, append=len(order)))
    return first


def mates(hashes: np.ndarray) -> np.ndarray:
    """int64 [n]: how many other rows have the same value."""
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    return counts[inverse.ravel()] - 1
