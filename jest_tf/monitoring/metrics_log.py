"""metrics.jsonl: one JSON object per line and logged step; continues without doubled lines.

    {"step": 20, "time": 1719234000.1, "train/loss": 3.21, …}

JSON knows no NaN or infinity: they are the strings "nan", "inf" and "-inf", floats once read.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from jest_tf.files import parse_json, writing

NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class MetricsLog:
    """Appends to the metrics file of a run, made when missing.

    start_step: of the restored checkpoint; lines of later steps, and one that a kill cut in half,
    are removed. now: seconds since the epoch, for `time`. UserError (here and in `write`): the file
    cannot be read or written.
    """

    def __init__(
        self, path: str | os.PathLike, start_step: int = 0, now: Callable[[], float] = time.time
    ):
        self._path, self._now = Path(path), now
        self._newest_step, self._names = start_step, set()
        with writing(self._path):
            if self._path.exists():
                os.truncate(self._path, _length_up_to(self._path, start_step))
                for line in read_metrics(self._path):
                    self._note(line)
            # Open as long as the run.
            self._file = open(self._path, "ab")  # noqa: SIM115

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line; numbers may be Python's, numpy's or eager tensors' scalars."""
        line = {"step": int(step), "time": round(self._now(), 3)}
        line |= {name: _to_json(value) for name, value in values.items()}
        with writing(self._path):
            self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            self._file.flush()
        self._note(line)

    def has(self, step: int, names: Iterable[str]) -> bool:
        """Whether lines of `step`, the newest one written, hold all of these names."""
        return step == self._newest_step and self._names.issuperset(names)

    def sync(self) -> None:
        """Bring all lines to the disk; call before saving a checkpoint, which they must precede."""
        with writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _note(self, line: Mapping[str, Any]) -> None:
        if line["step"] != self._newest_step:
            self._newest_step, self._names = line["step"], set()
        self._names.update(line)


def read_metrics(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file in order, also while it is written; skips unreadable ones.

    Without a file there are no lines: a run that starts has written none yet.
    """
    n_skipped = 0
    for line, _ in _lines(Path(path)) if os.path.exists(path) else ():
        parsed = _parse(line)
        if parsed is None:
            n_skipped += 1
        else:
            yield {name: _from_json(value) for name, value in parsed.items()}
    if n_skipped:
        logging.warning("%s: %d unreadable line(s) skipped.", path, n_skipped)


def _length_up_to(path: Path, step: int) -> int:
    """Bytes before the first whole line of a step after `step`, or before a half-written end."""
    end = 0
    for line, line_end in _lines(path):
        parsed = _parse(line)
        if parsed is not None and parsed["step"] > step:
            break
        end = line_end
    return end


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """Whole lines with the offset of their end, one at a time: the file may be large."""
    end = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            yield line, end


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        parsed = parse_json(line)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) and isinstance(parsed.get("step"), int) else None


def _to_json(value: Any) -> Any:
    if hasattr(value, "numpy"):
        value = value.numpy()
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _from_json(value: Any) -> Any:
    return NON_FINITE.get(value, value) if isinstance(value, str) else value
