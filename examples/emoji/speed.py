"""Tells when a machine is busy: steps per second against what two quiet cores make."""

import os
import subprocess
from pathlib import Path

from jest_tf.progress import duration

SLOW = 0.6  # below this share of the expected the machine is called busy
SECONDS = "cost/seconds"
SECONDS_BETWEEN_LOOKS = 2.0


class Speed:
    """Looks at the load before, and at a run's own metrics while it trains.

    expected: by the run's name, steps a second on two quiet cores.
    """

    def __init__(self, expected: dict[str, float]):
        self.expected = expected

    def plan(self, minutes: float) -> str:
        """How long all of it takes, here and now."""
        n_cpus, load = os.cpu_count() or 1, _load()
        text = f"about {minutes:g} minutes on two quiet cores, installation aside."
        if load > n_cpus / 2:
            text += (
                f" This machine is busy (load {load:.1f} on {n_cpus} cores): expect about "
                f"{minutes * (1 + load / n_cpus):.0f} minutes."
            )
        return text

    def watch(self, process: subprocess.Popen, name: str, metrics: str) -> None:
        """Waits for a training run, and says once if it is slow and what that will cost."""
        told, skip = False, len(_lines(metrics))
        while process.poll() is None:
            try:
                process.wait(SECONDS_BETWEEN_LOOKS)
            except subprocess.TimeoutExpired:
                if told:
                    continue
                if text := slowness(self.expected[name], _lines(metrics)[skip:], _load()):
                    print(text, flush=True)
                    told = True


def slowness(expected: float, lines: list[dict], load: float) -> str:
    """What to say about a run's speed; empty where it is as expected, or not known yet.

    Args:
      expected: steps a second on two quiet cores.
      lines: of metrics.jsonl. Seconds are those of steps: no compiling, no evaluation.
      load: running processes of the machine.
    """
    at = [(line["step"], line[SECONDS]) for line in lines if SECONDS in line]
    if len(at) < 3:
        return ""
    steps, seconds = (last - first for first, last in zip(at[0], at[-1], strict=True))
    rate = steps / max(seconds, 1e-9)
    if rate >= SLOW * expected:
        return ""
    cause = f"load {load:.1f} on {os.cpu_count()} cores"
    return (
        f"Slow: {rate:.2g} steps/s, two quiet cores make {expected:g} ({cause}). 100 steps of this "
        f"run take {duration(100 / rate)} instead of {duration(100 / expected)}."
    )


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _lines(path: str) -> list[dict]:
    from jest_tf.monitoring.metrics_log import read_metrics

    return list(read_metrics(Path(path))) if os.path.exists(path) else []
