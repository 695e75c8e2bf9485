"""How many numbers of a long stream came before, in bounded memory."""

import tempfile
from typing import BinaryIO

import numpy as np

N_FILES = 64
# Numbers that are held before they go to files: 32 MB.
HELD = 1 << 22


class Repeats:
    """Counts repeated int64 numbers exactly; long streams go to temporary files."""

    def __init__(self, held: int = HELD):
        self.n = 0
        self._held, self._waiting = held, 0
        self._parts: list[np.ndarray] = []
        self._files: list[BinaryIO] = []

    def add(self, numbers: np.ndarray) -> None:
        self._parts.append(np.asarray(numbers, np.int64))
        self.n += len(numbers)
        self._waiting += len(numbers)
        if self._waiting > self._held:
            self._spill()

    def count(self) -> int:
        """Numbers added so far, less the different ones among them."""
        if not self._files:
            return self.n - _n_different(np.concatenate([*self._parts, np.empty(0, np.int64)]))
        self._spill()
        different = 0
        for file in self._files:
            file.seek(0)
            different += _n_different(np.frombuffer(file.read(), np.int64))
        return self.n - different

    def _spill(self) -> None:
        self._files = self._files or [tempfile.TemporaryFile() for _ in range(N_FILES)]  # noqa: SIM115
        numbers = np.concatenate([*self._parts, np.empty(0, np.int64)])
        for remainder, file in enumerate(self._files):
            file.write(numbers[numbers % N_FILES == remainder].tobytes())
        self._parts, self._waiting = [], 0


def _n_different(numbers: np.ndarray) -> int:
    return len(np.unique(numbers))
