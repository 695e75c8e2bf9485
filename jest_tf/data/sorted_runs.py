"""Ids of a long stream: which come twice, and where each lies. In bounded memory."""

import tempfile

import numpy as np

RUN = 1 << 20  # entries that are held before they go to the file: 16 MB
_ENTRY = np.dtype([("id", "<i8"), ("part", "<i4"), ("row", "<i4")])
_RANGES = 64  # of ids, one of which is compared at a time


class SortedRuns:
    """int64 ids in runs that are sorted, in a temporary file. n: ids that were added."""

    def __init__(self, run: int = RUN):
        self.n = 0
        self._run, self._waiting, self._held = run, [], 0
        self._file, self._lengths = tempfile.TemporaryFile(), []  # noqa: SIM115

    def add(self, ids: np.ndarray, part: int = 0) -> None:
        """The ids of the rows of a part."""
        entries = np.empty(len(ids), _ENTRY)
        entries["id"], entries["part"], entries["row"] = ids, part, np.arange(len(ids))
        self._waiting.append(entries)
        self.n += len(ids)
        self._held += len(ids)
        if self._held >= self._run:
            self._spill()

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(part, row) [n] of each; -1 where the id was not added. Added twice, the first counts."""
        part, row = np.full(len(ids), -1, np.int32), np.zeros(len(ids), np.int32)
        for run in self._runs():
            found = run[np.minimum(np.searchsorted(run["id"], ids), len(run) - 1)]
            is_here = (part < 0) & (found["id"] == ids)
            part[is_here], row[is_here] = found["part"][is_here], found["row"][is_here]
        return part, row

    def n_repeated(self) -> int:
        """Ids that were added, less the different ones among them."""
        runs = [run["id"] for run in self._runs()]
        if not runs:
            return 0
        sample = np.sort(np.concatenate([run[:: -(-len(run) // _RANGES)] for run in runs]))
        cuts = [np.searchsorted(run, sample[:: len(runs)][1:]) for run in runs]
        parts = [np.split(run, cut) for run, cut in zip(runs, cuts, strict=True)]
        return self.n - sum(len(np.unique(np.concatenate(p))) for p in zip(*parts, strict=True))

    def _runs(self) -> list[np.ndarray]:
        self._spill()
        ends = np.cumsum(self._lengths, dtype=int).tolist()
        return [
            np.memmap(self._file, _ENTRY, "r", (end - n) * _ENTRY.itemsize, n)
            for end, n in zip(ends, self._lengths, strict=True)
        ]

    def _spill(self) -> None:
        if self._held:
            entries = np.concatenate(self._waiting)
            entries = entries[np.argsort(entries["id"], kind="stable")]
            self._file.write(entries.tobytes())
            self._file.flush()
            self._lengths.append(len(entries))
        self._waiting, self._held = [], 0
