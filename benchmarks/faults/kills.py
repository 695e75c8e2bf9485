"""kill -9 at random moments, again and again, and a comparison with a run that nobody disturbed.

Processes are forked from this one, which has imported TensorFlow and never uses it.
"""

import collections
import json
import os
import pathlib
import random
import shutil
import signal
import time
from collections.abc import Callable

# Imported here so that no forked process spends its time on it.
import jest_tf.training.loop  # noqa: F401
from benchmarks.faults import tiny_run
from benchmarks.faults.results import Results
from benchmarks.faults.state import differing_parts, state_of
from jest_tf.training.run.storage import STAGING_PREFIX

N_STEPS = 120
# Of the run's training, how much may pass before a kill: every few kills a run must finish, and be
# compared.
MOST_OF_THE_TRAINING = 0.5
KILLS_BETWEEN_REPORTS = 10
LOOK_SECONDS = 0.003


def kills(results: Results, folder: pathlib.Path, n_kills: int, seed: int = 0) -> int:
    """Kills a run until it has finished, then the next, until there were `n_kills` kills.

    Continues what an interrupted call began in the same folder.

    Returns:
      0, or 1 where a start failed or a finished run differs from the undisturbed one.
    """
    runs = _Runs(folder)
    expected = state_of(runs.finished("undisturbed"))
    events = _Events(folder / "kills.jsonl")
    rng = random.Random(f"{seed}-{events.n_starts}")
    while events.n_kills < n_kills or events.last != "finished":
        workdir = folder / f"killed-{events.n_finished:02d}"
        may_kill = events.n_kills < n_kills
        moment = _random_moment(rng, *runs.cpu_seconds) if may_kill else _never
        found, phase, step = runs.start_and_kill(workdir, moment)
        differing = differing_parts(state_of(workdir), expected) if found == "finished" else []
        events.add(found, phase=phase, step=step, run=workdir.name, differing=differing)
        if found == "failed":
            break
        if events.n_kills % KILLS_BETWEEN_REPORTS == 0 or found == "finished":
            _report(results, events)
    _report(results, events)
    return int(events.n_failed > 0 or events.n_different > 0)


class _Runs:
    """Starts runs; measures on one of them how long a start and the training after it take.

    cpu_seconds: of both, in the run's own CPU time: a machine that is busy with other things does
    not move the moment of a kill.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self.data, self.reference = folder / "data", folder / "reference"
        if not self.data.exists():
            # Writing records uses TensorFlow, which this process must not.
            pid = tiny_run.fork(lambda: tiny_run.write_data(self.data), folder / "starts.log")
            _require_success(os.waitpid(pid, 0)[1], f"writing data; see {folder}/starts.log")
        self.finished("reference", is_reference=True)
        self.cpu_seconds = self._measure()

    def finished(self, name: str, is_reference: bool = False) -> pathlib.Path:
        """The workdir of a run that has done all its steps undisturbed."""
        status = os.waitpid(self._start(self._folder / name, is_reference), 0)[1]
        _require_success(status, f"run {name}; see {self._folder}/starts.log")
        return self._folder / name

    def start_and_kill(
        self, workdir: pathlib.Path, is_time: Callable[[float, bool], bool]
    ) -> tuple[str, str, int]:
        """Starts or continues a run and kills it once `is_time(CPU seconds, has trained)`.

        Returns:
          what happened: killed, finished or failed; in which phase it was killed: starting,
          training, or saving; and how many steps it had trained by then.
        """
        picks = _Growth(lambda: _picked_bytes(workdir))
        pid = self._start(workdir)
        while not is_time(_cpu_seconds(pid), picks.has_grown()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                is_success = os.waitstatus_to_exitcode(status) == 0
                return "finished" if is_success else "failed", "", _trained_steps(workdir)
            time.sleep(LOOK_SECONDS)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        phase = "training" if picks.has_grown() else "starting"
        checkpoints = workdir / "checkpoints"
        if checkpoints.is_dir() and any(
            entry.name.startswith(STAGING_PREFIX) for entry in os.scandir(checkpoints)
        ):
            phase = "saving"
        return "killed", phase, _trained_steps(workdir)

    def _start(self, workdir: pathlib.Path, is_reference: bool = False) -> int:
        command = (
            tiny_run.arguments(self.data, workdir, kind="reference")
            if is_reference
            else tiny_run.arguments(self.data, workdir, reference=self.reference, steps=N_STEPS)
        )
        return tiny_run.fork_train(command, self._folder / "starts.log")

    def _measure(self) -> tuple[float, float]:
        start = end = 0.0

        def look(spent: float, has_trained: bool) -> bool:
            nonlocal start, end
            start, end = (start if has_trained else spent), spent
            return False

        workdir = self._folder / "measured"
        shutil.rmtree(workdir, ignore_errors=True)
        self.start_and_kill(workdir, look)
        return start, end - start


class _Growth:
    """Whether a file has grown: a start first cuts what lies beyond its checkpoint."""

    def __init__(self, size: Callable[[], int]):
        self._size, self._lowest = size, size()

    def has_grown(self) -> bool:
        size = self._size()
        self._lowest = min(self._lowest, size)
        return size > self._lowest


class _Events:
    """What happened to each start, kept in a file so that a later call goes on."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._events = [json.loads(line) for line in lines]

    def add(self, what: str, **details) -> None:
        self._events.append({"what": what, **details})
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(self._events[-1]) + "\n")

    def _count(self, what: str) -> int:
        return sum(event["what"] == what for event in self._events)

    @property
    def last(self) -> str:
        return self._events[-1]["what"] if self._events else "finished"

    @property
    def n_starts(self) -> int:
        return len(self._events)

    @property
    def n_kills(self) -> int:
        return self._count("killed")

    @property
    def n_finished(self) -> int:
        return self._count("finished")

    @property
    def n_failed(self) -> int:
        return self._count("failed")

    @property
    def n_different(self) -> int:
        return sum(bool(event["differing"]) for event in self._events)

    @property
    def phases(self) -> dict[str, int]:
        """How many kills came in which phase."""
        return dict(collections.Counter(e["phase"] for e in self._events if e["what"] == "killed"))


def _random_moment(
    rng: random.Random, start: float, training: float
) -> Callable[[float, bool], bool]:
    """A predicate of (CPU seconds, has trained): a quarter of the kills anywhere, most in training.

    Args:
      start, training: CPU seconds until a run trains, and from then to its end.
    """
    put_off = rng.uniform(0, MOST_OF_THE_TRAINING * training)
    if rng.random() < 0.25:
        moment = rng.uniform(0, start + put_off)
        return lambda spent, _: spent >= moment
    trained_at: list[float] = []

    def is_time(spent: float, has_trained: bool) -> bool:
        if has_trained and not trained_at:
            trained_at.append(spent)
        return bool(trained_at) and spent >= trained_at[0] + put_off

    return is_time


def _never(_spent: float, _has_trained: bool) -> bool:
    return False


def _report(results: Results, events: _Events) -> None:
    phases = ", ".join(f"{n} while {phase}" for phase, n in sorted(events.phases.items()))
    context = f"kill -9 at random moments of a run of {N_STEPS} steps: {phases or 'none yet'}"
    results.add("kills", events.n_kills, "at least 100", "kills", repeats=1, context=context)
    results.add(
        "kills_starts_that_failed",
        events.n_failed,
        "0",
        "starts",
        numerator=events.n_failed,
        denominator=events.n_starts,
        repeats=1,
        context="starts after a kill, or of a new run, that ended with an error",
    )
    results.add(
        "kills_runs_that_differ",
        events.n_different,
        "0",
        "runs",
        numerator=events.n_different,
        denominator=events.n_finished,
        repeats=1,
        context="finished runs whose weights, optimizer, metrics, picks, evaluations or ledger "
        "differ in any bit from those of the undisturbed run",
    )


def _require_success(status: int, what: str) -> None:
    if code := os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{what} ended with exit code {code}")


def _cpu_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _picked_bytes(workdir: pathlib.Path) -> int:
    ids = workdir / "picks" / "ids.bin"
    return ids.stat().st_size if ids.exists() else 0


def _trained_steps(workdir: pathlib.Path) -> int:
    return _picked_bytes(workdir) // (8 * 8)  # int64 ids of a sub-batch of 8
