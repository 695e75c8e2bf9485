"""Starts fuzz workers, and counts what they used, what they refused, and what killed them."""

import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple

from benchmarks.faults.results import Results

# One batch takes well under a second; the first of a reader builds its graphs.
SECONDS_OF_A_BATCH = 120.0
LOOK_SECONDS = 0.5
MOST_RESTARTS = 20
ENVIRONMENT = {
    # Each thread's arena maps 64 MB that it does not use; a bound on what is mapped must not see
    # them.
    "MALLOC_ARENA_MAX": "2",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class Outcome(NamedTuple):
    """What came of all inputs. `findings`: reader, first input, and what happened."""

    inputs: collections.Counter
    used: collections.Counter
    findings: list[dict[str, Any]]
    crashes: int
    hangs: int
    peak_bytes: int


def watch(seed: int, count: int, folder: pathlib.Path) -> Outcome:
    """Feeds about `count` mutated inputs; a worker that dies or hangs is replaced behind the input.

    A batch that a worker did not survive is one finding, and its inputs count as neither.
    """
    inputs, used = collections.Counter(), collections.Counter()
    findings: list[dict[str, Any]] = []
    crashes = hangs = peak = 0
    begin = ""
    for _ in range(MOST_RESTARTS):
        events, code, timed_out = _run_worker(seed, count, folder, begin)
        begun: dict[str, Any] = {}
        for event in events:
            if "n" in event or "starts" in event:
                begun = event
            elif "used" in event:
                inputs[event["reader"]] += begun["n"]
                used[event["reader"]] += event["used"]
                peak = max(peak, event["peak"])
                if event["finding"]:
                    findings.append({k: event[k] for k in ("reader", "first", "finding")})
        if events and events[-1].get("end"):
            break
        what = "no answer in time" if timed_out else f"the process ended with {code}"
        crashes, hangs = crashes + (not timed_out), hangs + timed_out
        findings.append({"reader": begun.get("reader", ""), "first": begun.get("first", 0),
                         "finding": what})  # fmt: skip
        if "n" not in begun:
            break  # Not an input's fault: it would come again.
        begin = f"{begun['reader']}:{begun['first'] + begun['n']}"
    return Outcome(inputs, used, findings, crashes, hangs, peak)


def _run_worker(
    seed: int, count: int, folder: pathlib.Path, begin: str
) -> tuple[list[dict], int, bool]:
    """(events, exit code, whether it was ended because nothing came for SECONDS_OF_A_BATCH)."""
    command = [sys.executable, "-m", "benchmarks.faults.fuzz.worker", str(seed), str(count)]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [*command, str(folder), *([begin] if begin else [])],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | ENVIRONMENT,
        ) as process,
        _Patience(process) as patience,
    ):
        events = []
        for line in process.stdout:
            events.append(json.loads(line))
            patience.renew()
        code = process.wait()
    return events, code, patience.is_at_its_end


class _Patience:
    """Kills the process after SECONDS_OF_A_BATCH without `renew`.

    Time in which this process was itself stopped does not count, since its worker was stopped with
    it, nor time in which the worker could run and got no processor.
    """

    def __init__(self, process: subprocess.Popen):
        self._process, self._waited = process, 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self.is_at_its_end = False

    def renew(self) -> None:
        self._waited = 0.0

    def _wait(self) -> None:
        last, last_queued = time.monotonic(), 0.0
        while not self._closed.wait(LOOK_SECONDS):
            now, queued = time.monotonic(), self._queued()
            waited = min(now - last, 2 * LOOK_SECONDS) - (queued - last_queued)
            self._waited += max(0.0, waited)
            last, last_queued = now, queued
            if self._waited > SECONDS_OF_A_BATCH:
                self.is_at_its_end = True
                self._process.kill()
                return

    def _queued(self) -> float:
        """Seconds in which the worker could run and got no processor, as Linux counts them."""
        try:
            return (
                int(pathlib.Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[1])
                / 1e9
            )
        except (OSError, IndexError):  # it has ended, or another system
            return 0.0

    def __enter__(self) -> "_Patience":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._closed.set()
        self._thread.join()


def fuzz(results: Results, folder: pathlib.Path, n_inputs: int, seed: int = 0) -> int:
    """Feeds `n_inputs` and reports; 1 where there was a finding. Findings go to findings.json."""
    outcome = watch(seed, n_inputs, folder)
    (folder / "findings.json").write_text(json.dumps(outcome.findings, indent=1))
    total, used = outcome.inputs.total(), outcome.used.total()
    per_kind = ", ".join(f"{name} {n:,}" for name, n in outcome.inputs.items())
    results.add(
        "fuzz_inputs", total, "at least 100,000", "inputs",
        numerator=used, denominator=total, repeats=1,
        context=f"mutated, seed {seed}: {per_kind}; {used:,} could be used, all others were "
        "refused and counted",
    )  # fmt: skip
    figures = {
        "fuzz_crashes": (outcome.crashes, "processes that died"),
        "fuzz_hangs": (outcome.hangs, f"batches without an answer in {SECONDS_OF_A_BATCH:.0f} s"),
        "fuzz_findings": (
            len(outcome.findings),
            "batches that raised anything but a UserError, lost an input, crashed or hung",
        ),
    }
    for name, (value, context) in figures.items():
        results.add(
            name, value, "0", "", numerator=value, denominator=total, repeats=1, context=context
        )
    results.add(
        "fuzz_peak_memory", outcome.peak_bytes / 1e6, "bounded: no more than 2 GiB above the start",
        "MB", repeats=1, context="resident, largest of all workers",
    )  # fmt: skip
    return int(bool(outcome.findings))
