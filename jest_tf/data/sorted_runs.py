"""Where the record of an id lies, for more ids than memory holds: sorted runs in a file."""

import tempfile

import numpy as np

RUN = 1 << 20  # entries that are held before they go to the file: 16 MB
_ENTRY = np.dtype([("id", "<i8"), ("part", "<i4"), ("row", "<i4")])


class SortedRuns:
    """(part, row) by id; of an id that is added twice, the first counts."""

    def __init__(self, run: int = RUN):
        self._run, self._waiting, self._held = run, [], 0
        self._file, self._lengths = tempfile.TemporaryFile(), []  # noqa: SIM115

    def add(self, ids: np.ndarray, part: int) -> None:
        """The ids of the rows of a part."""
        entries = np.empty(len(ids), _ENTRY)
        entries["id"], entries["part"], entries["row"] = ids, part, np.arange(len(ids))
        self._waiting.append(entries)
        self._held += len(ids)
        if self._held >= self._run:
            self._spill()

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(part, row) [n] of each; part -1 where the id was not added."""
        self._spill()
        part, row = np.full(len(ids), -1, np.int32), np.zeros(len(ids), np.int32)
        first = 0
        for length in self._lengths:
            run = np.memmap(self._file, _ENTRY, "r", first * _ENTRY.itemsize, length)
            first += length
            at = np.minimum(np.searchsorted(run["id"], ids), length - 1)
            found = run[at]
            is_here = (part < 0) & (found["id"] == ids)
            part[is_here], row[is_here] = found["part"][is_here], found["row"][is_here]
        return part, row

    def _spill(self) -> None:
        if self._held:
            entries = np.concatenate(self._waiting)
            entries = entries[np.argsort(entries["id"], kind="stable")]
            self._file.write(entries.tobytes())
            self._file.flush()
            self._lengths.append(len(entries))
        self._waiting, self._held = [], 0
