"""Which share of each source's candidates a policy picks."""

import collections
from collections.abc import Sequence

import numpy as np


class Acceptance:
    """Counts candidates and picks by source (number -> name), from one report to the next."""

    def __init__(self, sources: Sequence[str]):
        self._sources = sources
        self._seen: collections.Counter = collections.Counter()
        self._picked: collections.Counter = collections.Counter()

    def add(self, ids: np.ndarray, source: np.ndarray, valid: np.ndarray, picks: np.ndarray):
        """One step: `ids` int64, `source` int32, `valid` bool [n] of candidates, `picks` [b].

        Unreadable rows are no candidates. Picks of other hosts' rows are passed over.
        """
        picked = np.isin(ids, picks) & valid
        self._seen.update(source[valid].tolist())
        self._picked.update(source[picked].tolist())

    def take(self) -> dict[str, float]:
        """`acceptance/SOURCE` → picked / candidates since the last call, and starts anew."""
        shares = {
            f"acceptance/{self._sources[source]}": self._picked[source] / n
            for source, n in sorted(self._seen.items())
        }
        self._seen.clear()
        self._picked.clear()
        return shares
