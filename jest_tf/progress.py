"""Lines that tell a person how far a command is, how fast it goes and when it ends.

On a terminal one line is rewritten in place; in a file or a pipe lines come seldom, each of its
own. What ends soon says nothing.
"""

import collections
import itertools
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TextIO

# Speeds are of the last this many seconds: a mean over the run hides a slowdown.
RATE_SECONDS = 60.0
# Least time between two lines, and before the first of a Counter.
TTY_SECONDS = 0.5
PLAIN_SECONDS = 10.0
_CLEAR = "\r\x1b[K"


class Line:
    """The line that is rewritten on a terminal; `min_seconds` pass between two of them."""

    def __init__(
        self,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        min_seconds: float | None = None,
    ):
        self._clock, self._stream = clock, stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        default = TTY_SECONDS if self._is_terminal else PLAIN_SECONDS
        self._min_seconds = default if min_seconds is None else min_seconds
        self._is_open = False
        self._recent = collections.deque()  # (time, *counts), of RATE_SECONDS and one before

    def note(self, text: str) -> None:
        """Print a line of its own, above the one that is rewritten."""
        self._stream.write(f"{_CLEAR if self._is_open else ''}{text}\n")
        self._stream.flush()
        self._is_open = False

    def close(self) -> None:
        """End the line that is rewritten, so that a shell prompt starts on its own."""
        if self._is_open:
            self._stream.write("\n")
            self._stream.flush()
            self._is_open = False

    def _remember(self, now: float, *counts: float) -> None:
        self._recent.append((now, *counts))
        while len(self._recent) > 2 and now - self._recent[1][0] >= RATE_SECONDS:
            self._recent.popleft()

    def _rates(self) -> list[float]:
        """Each count per second, lately; empty while no time has passed."""
        start, end = self._recent[0], self._recent[-1]
        seconds = end[0] - start[0]
        if seconds <= 0:
            return []
        return [(b - a) / seconds for a, b in zip(start[1:], end[1:], strict=True)]

    def _print(self, line: str, is_last: bool) -> None:
        if self._is_terminal:
            # A longer one would break, and its first half would stay.
            line = _CLEAR + line[: shutil.get_terminal_size().columns - 1]
        self._stream.write(line + ("\n" if is_last or not self._is_terminal else ""))
        self._stream.flush()
        self._is_open = self._is_terminal and not is_last


class Counter(Line):
    """Counts what a command has done, as a context manager; may be told from several threads.

        embedding data/mine: 1,200/2,000 records 60%  260/s  3s left

    what: what is done, to what. total: how many there are; 0 if nobody knows. unit: in the plural.
    line: see `Line`. The first one comes after `min_seconds`: short work prints nothing.
    """

    def __init__(self, what: str, total: int, unit: str = "records", **line):
        super().__init__(**line)
        self._what, self._total, self._unit = what, total, unit
        self.done, self._lock = 0, threading.Lock()
        self._more: collections.Counter[str] = collections.Counter()
        self._printed, self._printed_at = False, self._clock()
        self._remember(self._printed_at, 0, 0)

    def __enter__(self) -> "Counter":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def add(self, n: int = 1, **more: int) -> None:
        """`n` are done; `more` counts other things, such as records where the units are files."""
        with self._lock:
            self.done += n
            self._more.update(more)
            now = self._clock()
            is_last = n > 0 and self.done == self._total
            is_due = now - self._printed_at >= self._min_seconds
            if not is_due and not (is_last and self._printed):
                return
            self._remember(now, self.done, self._more.total())
            self._print(self._line(), is_last)
            self._printed, self._printed_at = True, now

    def over(self, items: Iterable) -> Iterator:
        """The items; each is done when the next is asked for."""
        for item in items:
            yield item
            self.add()

    def _line(self) -> str:
        rate, rate_more = self._rates() or (0.0, 0.0)
        of = f"/{self._total:,}" if self._total else ""
        parts = [f"{self._what}: {self.done:,}{of} {self._unit}"]
        if self._total:
            parts[0] += f" {100 * self.done // self._total}%"
        for name, count in self._more.items():
            parts.append(f"{count:,} {name}")
        if rate_more or rate:
            parts.append(f"{short_number(rate_more or rate)}/s")
        if self._total and rate:
            parts.append(f"{duration((self._total - self.done) / rate)} left")
        return "  ".join(parts)


class Progress(Line):
    """How far a training run is; speeds count from the first update on. Prints the last step.

    step 1,200/2,000 60%  loss 3.21  scored 1.3k/s  trained 260/s  1.2PFLOP  ETA 5m 10s
    """

    def __init__(self, total_steps: int, **line):
        super().__init__(**line)
        self._total = total_steps
        self._last_printed: float | None = None

    def update(
        self,
        step: int,
        *,
        examples_scored: int,
        examples_trained: int,
        flops: float,
        values: Mapping[str, float] | None = None,
    ) -> str | None:
        """Tells totals after a step, and `values` such as {"loss": 3.2}; the line, if printed."""
        now = self._clock()
        self._remember(now, step, examples_scored, examples_trained)
        is_due = self._last_printed is None or now - self._last_printed >= self._min_seconds
        if not is_due and step < self._total:
            return None
        line = self._line(step, flops, values or {})
        self._print(line, is_last=step >= self._total)
        self._last_printed = now
        return line

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
    units = ("d", 86400), ("h", 3600), ("m", 60), ("s", 1)
    for (unit, size), (smaller, smaller_size) in itertools.pairwise(units):
        if seconds >= size:
            return f"{seconds // size}{unit} {seconds % size // smaller_size:02d}{smaller}"
    return f"{seconds}s"
