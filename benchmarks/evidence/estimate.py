"""How long cells will take, from those that are finished."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.evidence.grid import Cell

# Before anything is measured: forward passes of a pair of the `nano` model a second on a CPU core.
FIRST_RATE = 4000.0
# Importing, compiling, evaluating: what a cell takes besides its steps.
FIXED_SECONDS = 50.0


class Estimate:
    """Learns the speed from results.

    Args:
      done: results of finished cells.
      work: cell name -> `Cell.work`.
    """

    def __init__(self, done: Iterable[Mapping[str, Any]], work: Mapping[str, int]):
        self._work = work
        self._wall: dict[str, list[float]] = {}
        self._total_work = self._total_seconds = 0.0
        for result in done:
            self.add(result)

    def add(self, result: Mapping[str, Any]) -> None:
        """Takes a result into account; one made in several sittings tells no duration."""
        if result["made"]["sittings"] > 1:
            return
        seconds = result["made"]["wall_seconds"]
        self._wall.setdefault(result["row"], []).append(seconds)
        self._total_work += self._work[result["cell"]]
        self._total_seconds += max(1.0, seconds - FIXED_SECONDS)

    def seconds(self, cells: Sequence[Cell]) -> float:
        """Wall-clock time of these cells one after the other."""
        rate = self._total_work / self._total_seconds if self._total_work else FIRST_RATE
        total = 0.0
        for cell in cells:
            same = self._wall.get(cell.row.name)
            total += sum(same) / len(same) if same else FIXED_SECONDS + cell.work / rate
        return total
