"""Figures as JSON lines: printed, and kept in a file from which docs/guarantees.md is written."""

import pathlib
from typing import Any

from benchmarks import figures


class Results:
    """The figures of one results file. A figure measured again replaces the earlier one.

    Args:
      path: of the JSON lines, made when missing.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path

    def add(self, figure: str, value: float, goal: str, unit: str, **details: Any) -> None:
        """Prints one figure and keeps it, with the date and the machine.

        Args:
          figure: its name; value, unit: what was measured; goal: what it should be, in words.
          **details: numerator, denominator, repeats, context (a sentence), and what else helps.
        """
        line = figures.emit(figure, value, goal, unit, **details, **figures.made_here())
        others = [known for known in figures.read(self._path) if known["figure"] != figure]
        figures.write(self._path, [*others, line])
