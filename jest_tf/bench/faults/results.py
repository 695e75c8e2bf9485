"""Figures as JSON lines: printed, and kept in a file from which docs/guarantees.md is written."""

import datetime
import json
import pathlib
from typing import Any

from jest_tf.monitoring import environment


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
        machine = environment.collect()
        line = {"figure": figure, "value": _short(value), "goal": goal, "unit": unit}
        line |= {name: _short(detail) for name, detail in details.items()}
        line["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        line["hardware"] = f"{machine['n_cpus']} cores, {machine['cpu']}"
        print(json.dumps(line), flush=True)
        others = [known for known in read(self._path) if known["figure"] != figure]
        text = "".join(json.dumps(known) + "\n" for known in [*others, line])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(text, encoding="utf-8")


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The figures of a results file, oldest first; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
