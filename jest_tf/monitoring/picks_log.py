"""The ids of every chosen sub-batch, as fixed-size records: step k is at a known place.

    picks/header.json   format, sub_batch, every_steps
    picks/ids.bin       little-endian int64 [n_records, sub_batch], in the order of the draw;
                        record r is the r-th step that is a multiple of every_steps

A step is counted by how many steps are finished after it, as in checkpoint names: the first is 1.
"""

import json
import os
from pathlib import Path

import numpy as np
from absl import logging

from jest_tf.errors import UserError, explaining
from jest_tf.files import parse_json, write_atomically, writing

FORMAT = 1
ID_DTYPE = np.dtype("<i8")
# Fills records that were lost (a machine that died before its disk wrote them).
UNKNOWN_ID = np.iinfo(np.int64).min


class PicksLog:
    """Appends the picks of a run, b ids for each step that is a multiple of `every_steps`.

    start_step: of the restored checkpoint; later records are removed. UserError: the folder holds
    picks of another size, or cannot be written (also in `write`).
    """

    def __init__(
        self, folder: str | os.PathLike, sub_batch: int, every_steps: int = 1, start_step: int = 0
    ):
        if every_steps < 1 or sub_batch < 1:
            raise UserError(f"picks log: {sub_batch=} and {every_steps=} must be at least 1.")
        self._folder = Path(folder)
        self._header = {"format": FORMAT, "sub_batch": sub_batch, "every_steps": every_steps}
        self._record_bytes = sub_batch * ID_DTYPE.itemsize
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / "header.json"
            if not (path.exists() and start_step > 0):
                (self._folder / "ids.bin").unlink(missing_ok=True)
                write_atomically(path, json.dumps(self._header))
            elif (found := _read_header(self._folder)) != self._header:
                raise UserError(
                    f"{path} says {found}, this run has {self._header}. Continue with the same "
                    "log.picks_every_steps and selection.sub_batch, or take another --workdir."
                )
            # Open as long as the run.
            self._file = open(self._folder / "ids.bin", "ab")  # noqa: SIM115
            self._cut(start_step // every_steps)

    def wants(self, step: int) -> bool:
        """Whether this step is recorded; fetch its ids from the device only then."""
        return step % self._header["every_steps"] == 0

    def write(self, step: int, ids: np.ndarray) -> None:
        """Append the ids int64 [b] of one step; steps must come in order, none left out."""
        ids = np.asarray(ids, ID_DTYPE)
        expected = (self._n_records + 1) * self._header["every_steps"]
        if step != expected or ids.shape != (self._header["sub_batch"],):
            raise ValueError(
                f"picks log: got step {step} with ids {list(ids.shape)}; expected step {expected} "
                f"with [{self._header['sub_batch']}]."
            )
        with writing(self._folder):
            self._file.write(ids.tobytes())
            self._file.flush()
        self._n_records += 1

    def sync(self) -> None:
        """Bring all records to the disk; call before saving a checkpoint: they must precede it."""
        with writing(self._folder):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _cut(self, n_records: int) -> None:
        n_found = self._file.tell() // self._record_bytes
        os.truncate(self._folder / "ids.bin", min(n_found, n_records) * self._record_bytes)
        self._file.seek(0, os.SEEK_END)
        if n_found < n_records:
            logging.warning("Picks of %d steps are lost; marked as unknown.", n_records - n_found)
            lost = np.full(self._header["sub_batch"], UNKNOWN_ID, ID_DTYPE).tobytes()
            for _ in range(n_records - n_found):
                self._file.write(lost)
        self._n_records = n_records


class Picks:
    """Reads a workdir's `picks`, also while they are written; UserError: none, or unreadable."""

    def __init__(self, folder: str | os.PathLike):
        header = _read_header(Path(folder))
        self.sub_batch: int = header["sub_batch"]
        self.every_steps: int = header["every_steps"]
        path = Path(folder) / "ids.bin"
        n_bytes = path.stat().st_size if path.exists() else 0
        self._n_records = n_bytes // (self.sub_batch * ID_DTYPE.itemsize)
        shape = (self._n_records, self.sub_batch)
        # Mapped, not read: a long run's file is larger than memory. A map cannot be empty.
        self._ids = np.memmap(path, ID_DTYPE, "r", shape=shape) if self._n_records else None

    @property
    def last_step(self) -> int:
        """The newest recorded step; 0 when there is none."""
        return self._n_records * self.every_steps

    def steps(self) -> range:
        return range(self.every_steps, self.last_step + 1, self.every_steps)

    def ids(self, step: int) -> np.ndarray:
        """The ids int64 [b] of one recorded step."""
        return self.window(step, step)[0]

    def window(self, first_step: int, last_step: int) -> np.ndarray:
        """Ids int64 [k, b] of the k recorded steps in first_step .. last_step, both included."""
        if not 0 < first_step <= last_step <= self.last_step:
            raise IndexError(f"steps {first_step}..{last_step} are not within 1..{self.last_step}")
        first = -(-first_step // self.every_steps) - 1
        return self._ids[first : last_step // self.every_steps]


def _read_header(folder: Path) -> dict:
    path = folder / "header.json"
    text = f"{path} is not readable as the header of a picks log: {{error}}."
    with explaining((OSError, ValueError, KeyError, TypeError), text):
        header = parse_json(path.read_text())
        is_sound = header["format"] == FORMAT and header["sub_batch"] > 0 < header["every_steps"]
    if not is_sound:
        raise UserError(f"{path} has {header}; this version reads format {FORMAT}.")
    return header
