"""What was picked, against a known label per id. For MEASURING only: nothing here feeds back.

The shipped pool knows the kind of noise of every row; a user's own data may know as much for a
few audited rows. Ids without a label are counted apart.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from jest_tf.monitoring.picks_log import UNKNOWN_ID, Picks

CLEAN = "clean"
# As data/emoji/README.md defines it: the pair says nothing true, or nothing at all.
BROKEN = frozenset({"shuffled", "boilerplate", "truncated", "bad_image"})
UNLABELLED = "unlabelled"


class Labels:
    """A table id → label that looks up many ids at once.

    Args:
      label_by_id: for instance `examples.emoji.builder.noise_by_id()`.
    """

    def __init__(self, label_by_id: Mapping[int, str]):
        self.names = [*sorted(set(label_by_id.values()) - {UNLABELLED}), UNLABELLED]
        code = {name: i for i, name in enumerate(self.names)}
        ids = np.fromiter(label_by_id, np.int64, len(label_by_id))
        codes = np.array([code[label] for label in label_by_id.values()], np.int64)
        order = np.argsort(ids)
        self._ids, self._codes = ids[order], codes[order]

    def codes(self, ids: np.ndarray) -> np.ndarray:
        """Index into `names` for every id; same shape."""
        ids = np.asarray(ids)
        unlabelled = len(self.names) - 1
        if not self._ids.size:
            return np.full(ids.shape, unlabelled)
        place = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[place] == ids, self._codes[place], unlabelled)

    def counts(self, ids: np.ndarray) -> np.ndarray:
        """How many of the ids, repeats included, have each label: int64 [len(names)]."""
        return np.bincount(self.codes(ids).ravel(), minlength=len(self.names))

    def shares(self, ids: np.ndarray) -> dict[str, float]:
        """Label → share of the ids, repeats included; sums to 1 unless there are no ids."""
        return self._as_shares(self.counts(ids))

    def pool_shares(self) -> dict[str, float]:
        """Label → share of the whole table: what picking blindly would give."""
        return self.shares(self._ids)

    def _as_shares(self, counts: np.ndarray) -> dict[str, float]:
        total = max(1, counts.sum())
        shares = {name: n / total for name, n in zip(self.names, counts.tolist(), strict=True)}
        if not shares[UNLABELLED]:
            del shares[UNLABELLED]
        return shares


@dataclasses.dataclass(frozen=True)
class Window:
    """What was picked during some consecutive recorded steps.

    `n_picks` counts repeats, `n_distinct` does not; `n_distinct_so_far` is since the first step.
    """

    first_step: int
    last_step: int
    n_picks: int
    n_distinct: int
    n_distinct_so_far: int
    shares: dict[str, float]

    @property
    def clean(self) -> float:
        """Share of the picks that are sound pairs."""
        return self.shares.get(CLEAN, 0.0)

    @property
    def broken(self) -> float:
        """Share of the picks whose pair is wrong or empty."""
        return broken_share(self.shares)


def broken_share(shares: Mapping[str, float]) -> float:
    """Sum of the shares of the broken kinds."""
    return sum(share for label, share in shares.items() if label in BROKEN)


def windows(picks: Picks, labels: Labels, n_steps: int) -> Iterator[Window]:
    """Describe the picks of every `n_steps` steps in turn; the last window may be shorter.

    Lost records are left out. Memory is that of one window and of the distinct ids.
    """
    distinct = np.zeros([0], np.int64)
    first = 1
    while first <= picks.last_step:
        last = min(first + n_steps - 1, picks.last_step)
        ids = picks.window(first, last)
        ids = ids[ids != UNKNOWN_ID]
        distinct_here = np.unique(ids)
        distinct = np.union1d(distinct, distinct_here)
        yield Window(first, last, ids.size, distinct_here.size, distinct.size, labels.shares(ids))
        first = last + 1
