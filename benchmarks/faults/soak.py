"""Two hours of training, watched from outside: memory, open files, threads, log size per step."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from benchmarks.faults import tiny_run
from benchmarks.faults.results import Results
from jest_tf.training.step_log import shows_examples

SECONDS_BETWEEN_LOOKS = 15.0
LOOKS_BETWEEN_REPORTS = 20
# What a process takes until its allocators and caches have what they need.
WARM_UP_SHARE = 0.25
N_STEPS = 10**9
STEPS_OF_A_LONG_RUN = 1_000_000
OVERRIDES = (
    "--config.strategy.jit_compile=True",
    "--config.strategy.deterministic=False",
    "--config.checkpoint.every_steps=500",
    "--config.log.every_steps=20",
    "--config.log.samples_every_steps=100",
    "--config.log.samples_per_group=16",
    "--config.evals.retrieval.every_steps=1000",
)
OVERRIDES_BY_NAME = dict(text.removeprefix("--").split("=") for text in OVERRIDES)


class Look(NamedTuple):
    """One look at the running process. `seconds` leaves out what the watcher itself was stopped."""

    seconds: float
    step: int
    memory: int  # bytes resident
    files: int
    threads: int
    tensorboard: int  # bytes of event files
    samples: int  # bytes of kept examples


def soak(results: Results, folder: pathlib.Path, minutes: float) -> None:
    """Trains for `minutes` of running time and reports, also on the way; then stops by SIGTERM.

    A stopped watcher (SIGSTOP to its process group) stops the clock: only time in which both ran
    counts. Looks are kept in `folder`/looks.jsonl; with 0 minutes nothing is trained and the looks
    that are there are reported.
    """
    if minutes == 0:
        lines = (folder / "looks.jsonl").read_text(encoding="utf-8").splitlines()
        _report(results, [Look(**json.loads(line)) for line in lines], folder / "run")
        return
    reference, workdir = _prepare(folder)
    command = tiny_run.arguments(
        folder / "data", workdir, *OVERRIDES, reference=reference, steps=N_STEPS
    )
    looks: list[Look] = []
    with (
        open(folder / "looks.jsonl", "w", encoding="utf-8") as kept,
        _train(command, folder / "soak.log") as process,
    ):
        running, last = 0.0, time.monotonic()
        while process.poll() is None and running < 60 * minutes:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            now = time.monotonic()
            running += min(now - last, 2 * SECONDS_BETWEEN_LOOKS)
            last = now
            step = _last_step(workdir)
            if step and process.poll() is None:
                looks.append(_look(process.pid, running, step, workdir))
                kept.write(json.dumps(looks[-1]._asdict()) + "\n")
                kept.flush()
                if len(looks) % LOOKS_BETWEEN_REPORTS == 0:
                    _report(results, looks, workdir)
        if process.poll() is not None:
            raise RuntimeError(
                f"training ended by itself with {process.returncode}: {folder}/soak.log"
            )
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait()
    _report(results, looks, workdir)
    results.add(
        "soak_seconds_from_sigterm_to_exit",
        time.monotonic() - asked,
        "at most one host loop of steps, one save and one evaluation",
        "s",
        context=f"exit code {code}, at step {_last_step(workdir):,}",
    )


def _prepare(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    data, reference = folder / "data", folder / "reference"
    if not data.exists():
        tiny_run.write_data(data)
    command = tiny_run.arguments(data, reference, kind="reference")
    with _train(command, folder / "reference.log") as process:
        if process.wait():
            raise RuntimeError(f"the reference could not be trained: {folder}/reference.log")
    return reference, folder / "run"


def _train(command: list[str], log: pathlib.Path) -> subprocess.Popen:
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "jest_tf.train", *command], stdout=file, stderr=file
        )


def _look(pid: int, seconds: float, step: int, workdir: pathlib.Path) -> Look:
    status = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in status)
    return Look(
        seconds=round(seconds, 1),
        step=step,
        memory=int(fields["VmRSS"].split()[0]) * 1024,
        files=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(fields["Threads"]),
        tensorboard=_bytes_below(workdir / "tensorboard"),
        samples=_bytes_below(workdir / "samples"),
    )


def _report(results: Results, looks: list[Look], workdir: pathlib.Path) -> None:
    warm = [look for look in looks if look.seconds >= WARM_UP_SHARE * looks[-1].seconds]
    steps = np.array([look.step for look in warm], float)
    hours = np.array([look.seconds for look in warm]) / 3600
    memory = np.array([look.memory for look in warm]) / 1e6
    n_steps = int(steps[-1] - steps[0])
    context = (
        f"{looks[-1].seconds / 60:.0f} minutes and {looks[-1].step:,} steps of the tiny run, "
        f"looked at {len(looks)} times; the first {WARM_UP_SHARE:.0%} are left out"
    )
    per_hour = float(np.polyfit(hours, memory, 1)[0])
    results.add(
        "soak_memory_slope_per_hour",
        per_hour,
        "flat",
        "MB/h",
        numerator=float(memory[-1] - memory[0]),
        denominator=float(hours[-1] - hours[0]),
        repeats=len(warm),
        context=context + f"; resident {memory[0]:.0f} MB, then {memory[-1]:.0f} MB",
    )
    results.add(
        "soak_memory_slope_per_step",
        float(np.polyfit(steps, memory * 1e6, 1)[0]),
        "flat",
        "bytes/step",
        numerator=float(1e6 * (memory[-1] - memory[0])),
        denominator=n_steps,
        repeats=len(warm),
        context=context,
    )
    for name in ("files", "threads"):
        values = [getattr(look, name) for look in warm]
        results.add(
            f"soak_open_{name}_slope" if name == "files" else "soak_threads_slope",
            float(np.polyfit(hours, values, 1)[0]),
            "flat",
            "1/h",
            repeats=len(warm),
            context=f"{context}; between {min(values)} and {max(values)}",
        )
    _report_logs(results, looks[-1], workdir, context)


def _report_logs(results: Results, last: Look, workdir: pathlib.Path, context: str) -> None:
    """What the logs of a long run take: examples are kept ever more rarely, scalars are not."""
    cadence = int(OVERRIDES_BY_NAME["config.log.samples_every_steps"])
    kept, kept_of_long_run = (
        sum(shows_examples(step, cadence) for step in range(cadence, steps + 1, cadence))
        for steps in (last.step, STEPS_OF_A_LONG_RUN)
    )
    pictures = _bytes_of_pictures(workdir / "tensorboard")
    scalars_per_step = (last.tensorboard - pictures) / last.step
    for name, per_step, per_example in (
        ("tensorboard", scalars_per_step, pictures / kept),
        ("samples", 0.0, last.samples / kept),
    ):
        of_long_run = STEPS_OF_A_LONG_RUN * per_step + kept_of_long_run * per_example
        results.add(
            f"soak_{name}_megabytes_of_a_million_steps",
            of_long_run / 1e6,
            "bounded: hundreds, not thousands",
            "MB",
            repeats=1,
            context=f"{context}: {per_step:.0f} bytes a step (scalars every "
            f"{OVERRIDES_BY_NAME['config.log.every_steps']} steps) and {per_example / 1e3:.0f} kB "
            f"each time that examples are kept, {kept_of_long_run:,} times in a million steps",
        )


def _bytes_of_pictures(logdir: pathlib.Path) -> int:
    """Bytes of the events that hold pictures or texts, of all event files."""
    total = 0
    for path in logdir.rglob("events.out.tfevents.*"):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            values = tf.compat.v1.Event.FromString(record).summary.value
            if any(v.metadata.plugin_data.plugin_name in ("images", "text") for v in values):
                total += len(record)
    return total


def _last_step(workdir: pathlib.Path) -> int:
    """Step of the last whole line of metrics.jsonl, 0 where there is none yet."""
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        lines = file.read().split(b"\n")[:-1]
    return json.loads(lines[-1])["step"] if lines else 0


def _bytes_below(folder: pathlib.Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
