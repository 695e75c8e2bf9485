"""Runs the cells that have no result yet, one process each, and keeps what they give.

Every cell is the shipped command `python -m jest_tf.train`, so anyone can repeat one by hand.
Ctrl-C and SIGTERM stop the cells, which save; the same command then continues all of them.
"""

import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence import results
from benchmarks.evidence.estimate import Estimate
from benchmarks.evidence.grid import (
    BASE,
    BASE_CACHE,
    BEST_PAIRS,
    CLEAN_POOL,
    OWN_BEST,
    PARTS,
    PHOTOS,
    RATE,
    START,
    Cell,
    rate_of,
)
from benchmarks.evidence.picks import PoolTruth
from benchmarks.evidence.prepare import POOL, best_pairs
from jest_tf.errors import UserError
from jest_tf.progress import duration
from jest_tf.runtime.interrupt import Interrupt

POLL_SECONDS = 0.5
STATUS_SECONDS = 30.0
# To finish the step that runs, and to save.
STOP_SECONDS = 120.0


@dataclasses.dataclass(frozen=True)
class Folders:
    """workdir: of all cells. results: file of all results. data_dir: prepared data. clean_pool:
    manifest of the pool's true-clean rows."""

    workdir: Path
    results: Path
    data_dir: str
    clean_pool: str

    def of(self, cell: Cell) -> Path:
        """The cell's own workdir."""
        return self.workdir / cell.folder

    def cache_of(self, cell: Cell) -> Path:
        """The embeddings of the pool by the cell's model, if others stand on it."""
        return self.of(cell) / "pool_embeddings"

    def best_of(self, cell: Cell) -> Path:
        """The pairs of the pool that the cell's model scores best, if others train on them."""
        return self.of(cell) / "best_pairs"

    def of_base(self, cell: Cell) -> Path:
        """Where evaluations of what is tuned are kept for all cells that tune it."""
        own = cell.reference.folder if cell.config.model.init == START else ""
        return self.workdir / "of_base" / (own or Path(cell.row.config).parent.name)

    @property
    def placeholders(self) -> dict[str, str]:
        """Values of overrides that stand for paths -> the paths."""
        base = self.workdir / "base"
        return {
            CLEAN_POOL: self.clean_pool,
            BASE: str(base),
            BASE_CACHE: f"{base}/pool_embeddings",
            BEST_PAIRS: f"{base}/best_pairs",
            PHOTOS: f"{self.data_dir}/photos",
            **{part: f"{self.data_dir}/{part.strip('{}')}/manifest.json" for part in PARTS},
        }

    def fill(self, text: str) -> str:
        """The text, with paths for its placeholders."""
        for placeholder, path in self.placeholders.items():
            text = text.replace(placeholder, path)
        return text


@dataclasses.dataclass
class Running:
    """A cell's process. `command`: that trains it. `afterwards`: those that follow the process."""

    cell: Cell
    process: subprocess.Popen
    command: list[str]
    afterwards: list[list[str]]
    slot: int
    started: float
    stopped_because: str = ""


class Runner:
    """Runs `cells`, which stand in an order in which each comes after what it needs.

    Args:
      folders: where everything is.
      truth: of the pool, for the results.
      jobs: cells at a time; each gets its share of the processors.
      cell_minutes: a cell that takes longer in one go is stopped (it saves) and counts as failed.
      last_start: seconds after which no further cell is started.
      on_result: called with the file of results and the cell, after every new result.
      commands: (cell, learning rate) -> the processes to run one after the other, in words.
      say: prints a line.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        folders: Folders,
        truth: PoolTruth,
        *,
        jobs: int = 1,
        cell_minutes: float = 15.0,
        last_start: float = float("inf"),
        on_result: Callable[[Path, Cell], None] = lambda path, cell: None,
        commands: Callable[[Cell, float], list[list[str]]] | None = None,
        say: Callable[[str], None] = lambda text: print(text, flush=True),
    ):
        self.cells, self.folders, self.truth = list(cells), folders, truth
        self.jobs, self.cell_minutes, self.last_start = jobs, cell_minutes, last_start
        self.on_result, self.say = on_result, say
        self.commands = commands or self._shipped_commands
        self.done = finished(cells, folders)
        self.failed: dict[str, str] = {}
        self.running: list[Running] = []
        self.waiting = to_run(cells, self.done, folders)
        self.estimate = Estimate(self.done.values(), {cell.name: cell.work for cell in cells})

    def run(self) -> int:
        """Runs all that can be run.

        Returns:
          0 if every cell has its result; 1 if some failed or were not started; 128 + the signal's
          number if it was asked to stop.
        """
        started = said = time.monotonic()
        self.say(self._summary(0.0))
        with Interrupt() as interrupt:
            try:
                while self.running or self._startable(started):
                    if interrupt.requested:
                        break
                    self._start_what_fits(started)
                    time.sleep(POLL_SECONDS)
                    self._look_after()
                    if time.monotonic() - said >= STATUS_SECONDS:
                        said = time.monotonic()
                        self.say(self._status(said - started))
            finally:
                self._stop_all("the suite was stopped")
        self.say(self._summary(time.monotonic() - started))
        for name, reason in self.failed.items():
            self.say(f"  {name}: {reason}")
        if interrupt.requested:
            self.say("Stopped; all that ran is saved. The same command continues.")
            return interrupt.exit_code
        return 1 if self.failed or self.waiting else 0

    def _shipped_commands(self, cell: Cell, rate: float) -> list[list[str]]:
        words = [train_command(cell, rate, self.folders)]
        readers = [c for c in self.cells if c.reads_cache and c.reference == cell]
        if readers:
            data = next((r.config.data.train for r in readers if not r.reads_best), POOL)
            words.append(cache_command(cell, self.folders, data))
            if any(reader.reads_best for reader in readers):
                words += best_commands(cell, self.folders, data)
        if cell.row.agreement:
            words.append(agreement_command(cell, self.folders))
        return words

    def _startable(self, started: float) -> list[Cell]:
        if time.monotonic() - started > self.last_start:
            return []
        unready = {cell.name for cell in self.waiting} | {r.cell.name for r in self.running}
        return [
            cell
            for cell in self.waiting
            if not any(need.name in unready or need.name in self.failed for need in cell.needs)
        ]

    def _start_what_fits(self, started: float) -> None:
        for cell in self._startable(started)[: self.jobs - len(self.running)]:
            slots = set(range(self.jobs)) - {running.slot for running in self.running}
            self.waiting.remove(cell)
            self.running.append(self._start(cell, min(slots)))

    def _start(self, cell: Cell, slot: int) -> Running:
        train, *afterwards = self.commands(cell, rate_of(cell, self.done))
        self.folders.of(cell).mkdir(parents=True, exist_ok=True)
        _share_start(cell, self.folders.of_base(cell), self.folders.of(cell))
        self.say(f"{cell.name} starts: {shlex.join(train)}")
        process = self._launch(cell, train, slot)
        return Running(cell, process, train, afterwards, slot, time.monotonic())

    def _launch(self, cell: Cell, words: list[str], slot: int) -> subprocess.Popen:
        with open(self.folders.of(cell) / "log.txt", "ab") as log:
            # A session of its own: Ctrl-C reaches this process alone, which then asks the cells.
            process = subprocess.Popen(
                [sys.executable, *words[1:]], stdout=log, stderr=log, start_new_session=True
            )
        _give_processors(process.pid, slot, self.jobs)
        return process

    def _look_after(self) -> None:
        for running in list(self.running):
            seconds = time.monotonic() - running.started
            code = running.process.poll()
            if code == 0 and running.afterwards and not running.stopped_because:
                words = running.afterwards.pop(0)
                running.process = self._launch(running.cell, words, running.slot)
            elif code is not None:
                self.running.remove(running)
                self._end(running, seconds)
            elif seconds > 60 * self.cell_minutes and not running.stopped_because:
                running.stopped_because = (
                    f"took more than {self.cell_minutes:g} minutes; saved, a rerun continues it"
                )
                running.process.terminate()

    def _end(self, running: Running, seconds: float) -> None:
        cell, folder = running.cell, self.folders.of(running.cell)
        code = running.process.returncode
        if code or running.stopped_because:
            log = folder / "log.txt"
            self._fail(cell, running.stopped_because or f"exit code {code}, see {log}")
            return
        made = {
            "command": shlex.join(running.command),
            "wall_seconds": round(seconds, 1),
            "jobs": self.jobs,
            "load_average": os.getloadavg()[1],
        }
        try:
            result = results.collect(cell, folder, self.truth, made)
        except (UserError, OSError, KeyError, ValueError) as error:
            self._fail(cell, f"no result: {type(error).__name__}: {error}")
            return
        _share_start(cell, folder, self.folders.of_base(cell))
        path = self.folders.results
        results.Store(path).add(result)
        self.done[cell.name] = result
        self.estimate.add(result)
        score, zero_shot = result["curve"]["retrieval"][-1], result["curve"]["zero_shot"][-1]
        self.say(
            f"{cell.name} done in {duration(seconds)}: validation retrieval {score:.1%}, "
            f"zero-shot {zero_shot:.1%}"
        )
        self.on_result(path, cell)

    def _fail(self, cell: Cell, reason: str) -> None:
        self.failed[cell.name] = reason
        self.say(f"{cell.name} FAILED: {reason}")

    def _stop_all(self, reason: str) -> None:
        for running in self.running:
            running.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        try:
            for running in self.running:
                running.process.wait(max(0.1, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            for running in self.running:
                running.process.kill()
        for running in self.running:
            if running.process.poll() == 0 and not running.afterwards:  # It came to its end.
                self._end(running, time.monotonic() - running.started)
            else:
                self.say(f"{running.cell.name} stopped: {reason}")
                self.waiting.append(running.cell)
        self.running.clear()

    def _status(self, elapsed: float) -> str:
        now, left = [], self.estimate.seconds(self.waiting)
        for r in self.running:
            step, total = last_step(self.folders.of(r.cell)), r.cell.config.total_steps
            now.append(f"{r.cell.name} {step}/{total}")
            spent = time.monotonic() - r.started
            planned = max(0.0, self.estimate.seconds([r.cell]) - spent)
            # Its own speed, once it has shown a fifth of the run; the start is mostly compiling.
            left += spent * (total - step) / step if 5 * step > total else planned
        n_done = len(self.cells) - len(self.waiting) - len(self.running) - len(self.failed)
        return (
            f"[{duration(elapsed)}] {n_done}/{len(self.cells)} cells done; {', '.join(now)}; "
            f"ETA {duration(left / self.jobs)}"
        )

    def _summary(self, elapsed: float) -> str:
        n_left = len(self.waiting)
        text = f"{len(self.cells)} cells, {len(self.cells) - n_left - len(self.failed)} done"
        text += f", {len(self.failed)} failed" if self.failed else ""
        if n_left:
            text += f", {n_left} to run in about "
            text += duration(self.estimate.seconds(self.waiting) / self.jobs)
        return text + (f" (this sitting: {duration(elapsed)})" if elapsed else "")


def train_command(cell: Cell, rate: float, folders: Folders) -> list[str]:
    """The shipped command that trains this cell, with paths and the chosen learning rate."""
    fields: dict[str, Any] = {
        "data.data_dir": folders.data_dir,
        "checkpoint.every_minutes": 3.0,
        "checkpoint.keep": 1,
        **dict(cell.row.overrides),
    }
    if cell.trials:
        fields[RATE] = rate
    if cell.reference:
        fields["reference.workdir"] = str(folders.of(cell.reference))
    if cell.reads_cache:
        fields["reference.cache"] = str(folders.cache_of(cell.reference))
    flags = [f"--config.{k}={v}" for k, v in fields.items()]
    config = f"--config={cell.row.config}:{cell.argument}"
    words = ["python", "-m", "jest_tf.train", config, *flags, f"--workdir={folders.of(cell)}"]
    best = str(folders.best_of(cell.reference)) if cell.reference else ""
    start = str(folders.of(cell.reference)) if cell.reference else ""
    return [folders.fill(word).replace(OWN_BEST, best).replace(START, start) for word in words]


def cache_command(cell: Cell, folders: Folders, data: str) -> list[str]:
    """The shipped command that stores the embeddings of `data` by the cell's model."""
    return [
        "python", "-m", "jest_tf.cache_reference", f"--reference={folders.of(cell)}",
        f"--data={folders.fill(data)}", f"--data_dir={folders.data_dir}",
        f"--out={folders.cache_of(cell)}",
    ]  # fmt: skip


def best_commands(cell: Cell, folders: Folders, data: str) -> list[list[str]]:
    """The shipped commands that keep the pairs of `data` that the cell's model scores best."""
    of = [f"--data={folders.fill(data)}", f"--data_dir={folders.data_dir}"]
    plan = best_pairs(str(folders.cache_of(cell)), str(folders.best_of(cell)), of)
    return [["python", "-m", f"jest_tf.{words[0]}", *words[1:]] for _, words in plan]


def agreement_command(cell: Cell, folders: Folders) -> list[str]:
    """The shipped command that compares the cell's cheap scores with full ones."""
    return [
        "python", "-m", "benchmarks.approximations", f"--workdir={folders.of(cell)}",
        f"--out={folders.of(cell) / results.AGREEMENT}",
    ]  # fmt: skip


def finished(cells: Sequence[Cell], folders: Folders) -> dict[str, dict[str, Any]]:
    """Cell name -> result, for the cells that have one of their present definition."""
    known = results.Store(folders.results).read()
    found = {cell.name: known[cell.name] for cell in cells if cell.name in known}
    return {c.name: found[c.name] for c in cells
            if c.name in found and found[c.name]["definition"] == c.definition}  # fmt: skip


def to_run(cells: Sequence[Cell], done: Mapping[str, Any], folders: Folders) -> list[Cell]:
    """The cells without a result, and the references that those need but that are not here.

    Results travel with the repository and weights do not: a reference is then trained again.
    """
    wanted = {cell.name for cell in cells if cell.name not in done}
    for cell in reversed(cells):  # What needs comes after what is needed.
        reference = cell.reference
        if cell.name in wanted and reference and not _has_reference(cell, folders):
            wanted.add(reference.name)
    return [cell for cell in cells if cell.name in wanted]


def _has_reference(cell: Cell, folders: Folders) -> bool:
    step = cell.reference.config.total_steps
    weights = folders.of(cell.reference) / "checkpoints" / f"step-{step:08d}"
    cache = folders.cache_of(cell.reference) / "cache.json"
    best = folders.best_of(cell.reference) / "manifest.json"
    is_scored = (cache.exists() or not cell.reads_cache) and (best.exists() or not cell.reads_best)
    return weights.exists() and is_scored


def _share_start(cell: Cell, source: Path, target: Path) -> None:
    """Copies evaluations of step 0: all runs that tune the base begin at the same weights."""
    for path in source.glob("evaluations/*-00000000.json") if cell.config.model.init else ():
        copy = target / "evaluations" / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists():
            shutil.copyfile(path, copy)


def last_step(folder: Path) -> int:
    """The newest step in a run's log, from the log's end: it is read every half minute."""
    try:
        with open(folder / "metrics.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().split(b'{"step": ')
        return int(lines[-1].partition(b",")[0]) if len(lines) > 1 else 0
    except (OSError, ValueError):
        return 0


def _give_processors(pid: int, slot: int, jobs: int) -> None:
    """Every job its own processors: they would slow each other down in ways that vary."""
    if jobs == 1 or not hasattr(os, "sched_setaffinity"):
        return
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) >= jobs:
        os.sched_setaffinity(pid, processors[slot::jobs])
