"""Keeps the exports of the best checkpoints of a run, by one metric of one evaluation."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jest_tf.errors import UserError
from jest_tf.files import parse_json, write_atomically

_LIST = "best.json"
# Where less is better; in every other metric of this package more is.
_LESS_IS_BETTER = ("median_rank",)


class BestExports:
    """A folder of at most n exports, `step-00000100` each, and `best.json` with their scores.

    by: `NAME:METRIC`, e.g. `retrieval:image_to_text/recall@10`; None if nothing is offered.
    UserError: it names none of `evaluations`.
    """

    def __init__(
        self, folder: str | os.PathLike, by: str | None, n: int, evaluations: Mapping[str, Any]
    ):
        self.folder, self.n = Path(folder), n
        self.name, _, self.metric = (by or "").partition(":")
        if by and self.name not in evaluations:
            raise UserError(
                f"--best={by}: there is no evaluation {self.name!r}; there are "
                f"{', '.join(evaluations)}"
            )

    def has(self, step: int) -> bool:
        """Whether this step is among those kept."""
        return step in self._kept()

    def offer(
        self, step: int, results: Mapping[str, Mapping[str, Any]], export: Callable[[str], Any]
    ) -> bool:
        """Exports a step that is among the n best, and drops what no longer is; True if kept.

        results: by evaluation. export: writes to a path. UserError: there is no such metric.
        """
        metrics = results[self.name]["metrics"]
        if self.metric not in metrics:
            raise UserError(
                f"evaluation {self.name!r} has no metric {self.metric!r}; it has "
                f"{', '.join(metrics)}"
            )
        ranked = {**self._kept(), step: metrics[self.metric]}
        sign = 1 if self.metric.endswith(_LESS_IS_BETTER) else -1
        # Of equals the earlier step stays: it cost less.
        best = sorted(ranked, key=lambda s: (sign * ranked[s], s))[: self.n]
        if step not in best:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        export(str(self.folder / _folder_name(step)))
        self._write({s: ranked[s] for s in best})
        for dropped in set(ranked) - set(best):
            shutil.rmtree(self.folder / _folder_name(dropped), ignore_errors=True)
        return True

    def _kept(self) -> dict[int, float]:
        try:
            content = parse_json((self.folder / _LIST).read_text())
        except FileNotFoundError:
            return {}
        if content["by"] != f"{self.name}:{self.metric}":
            raise UserError(
                f"{self.folder} holds the best exports by {content['by']}, not by "
                f"{self.name}:{self.metric}: remove it, or keep to that metric"
            )
        return {entry["step"]: entry["score"] for entry in content["exports"]}

    def _write(self, scores: Mapping[int, float]) -> None:
        exports = [{"step": s, "score": v, "path": _folder_name(s)} for s, v in scores.items()]
        content = {"by": f"{self.name}:{self.metric}", "exports": exports}
        write_atomically(self.folder / _LIST, json.dumps(content, indent=1))


def _folder_name(step: int) -> str:
    return f"step-{step:08d}"
