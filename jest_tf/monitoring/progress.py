"""The line that tells a person how far a run is and how fast it goes."""

import collections
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

# Speeds are of the last this many seconds of steps: a mean over the run hides a slowdown.
RATE_SECONDS = 60.0
TTY_SECONDS = 0.5
PLAIN_SECONDS = 10.0


class Progress:
    """Prints lines like this one.

        step 1,200/2,000 60%  loss 3.21  scored 1.3k/s  trained 260/s  1.2PFLOP  ETA 5m 10s

    Speeds count from the first update on, so neither compiling nor a resumed run's past is in them.
    On a terminal the line is rewritten in place; in a file or a pipe each is a line of its own.

    Args:
      total_steps: steps of the whole run.
      stream: where to; standard error by default.
      clock: seconds that never run backwards.
      min_seconds: least time between two lines; the last step is always printed.
    """

    def __init__(
        self,
        total_steps: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        min_seconds: float | None = None,
    ):
        self._total, self._clock = total_steps, clock
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        default = TTY_SECONDS if self._is_terminal else PLAIN_SECONDS
        self._min_seconds = default if min_seconds is None else min_seconds
        self._recent = collections.deque()
        self._last_printed: float | None = None
        self._width = 0

    def update(
        self,
        step: int,
        *,
        examples_scored: int,
        examples_trained: int,
        flops: float,
        values: Mapping[str, float] | None = None,
    ) -> str | None:
        """Tell the state after a step; prints when it is time.

        Args:
          step: finished steps of the run.
          examples_scored, examples_trained, flops: totals of the run so far.
          values: a few numbers to show, e.g. {"loss": 3.2}.
        Returns:
          The printed line, or None.
        """
        now = self._clock()
        self._recent.append((now, step, examples_scored, examples_trained))
        while len(self._recent) > 2 and now - self._recent[1][0] >= RATE_SECONDS:
            self._recent.popleft()
        is_due = self._last_printed is None or now - self._last_printed >= self._min_seconds
        if not is_due and step < self._total:
            return None
        line = self._line(step, flops, values or {})
        self._print(line, is_last=step >= self._total)
        self._last_printed = now
        return line

    def note(self, text: str) -> None:
        """Print a line of its own, above the one that is rewritten."""
        blank = "\r" + " " * self._width + "\r" if self._is_terminal and self._width else ""
        self._stream.write(f"{blank}{text}\n")
        self._stream.flush()
        self._width = 0

    def close(self) -> None:
        """End the line that is rewritten, so that a shell prompt starts on its own."""
        if self._is_terminal and self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0

    def _line(self, step: int, flops: float, values: Mapping[str, float]) -> str:
        percent = 100 * step // self._total if self._total else 100
        parts = [f"step {step:,}/{self._total:,} {percent}%"]
        parts += [f"{name} {value:.4g}" for name, value in values.items()]
        if rates := self._rates():
            steps, scored, trained = rates
            if scored:  # the uniform policy scores nothing
                parts.append(f"scored {short_number(scored)}/s")
            parts.append(f"trained {short_number(trained)}/s")
        parts.append(f"{short_number(flops)}FLOP")
        if rates and steps:
            parts.append(f"ETA {duration((self._total - step) / steps)}")
        return "  ".join(parts)

    def _rates(self) -> tuple[float, float, float] | None:
        """Steps, examples scored and examples trained per second; None before the second update."""
        start, end = self._recent[0], self._recent[-1]
        seconds = end[0] - start[0]
        if seconds <= 0:
            return None
        steps, scored, trained = (
            (b - a) / seconds for a, b in zip(start[1:], end[1:], strict=True)
        )
        return steps, scored, trained

    def _print(self, line: str, is_last: bool) -> None:
        if not self._is_terminal:
            self._stream.write(line + "\n")
        else:
            end = "\n" if is_last else ""
            self._stream.write("\r" + line.ljust(self._width) + end)
            self._width = 0 if is_last else len(line)
        self._stream.flush()


def short_number(value: float) -> str:
    """Three digits and a unit: 950, 1.23k, 45.6M, 7.8G, 1.2T, 3.4P, 5.6E."""
    for unit in ("", "k", "M", "G", "T", "P"):
        # 999.5 would be printed as 1e+03.
        if abs(value) < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}E"


def duration(seconds: float) -> str:
    """`42s`, `5m 07s`, `3h 05m`, `2d 04h`."""
    seconds = round(seconds)
    for unit, size, smaller, smaller_size in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if seconds >= size:
            return f"{seconds // size}{unit} {seconds % size // smaller_size:02d}{smaller}"
    return f"{seconds}s"
