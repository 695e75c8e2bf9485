"""A run that outlives read errors, and stops when too many records are bad."""

import collections
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from jest_tf.data.manifest import Manifest, check_files
from jest_tf.errors import UserError


def resilient_steps(
    make_iterator: Callable[[int], Iterator],
    start_step: int,
    manifest: Manifest,
    *,
    max_retries: int = 5,
    first_wait: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
    report: Callable[[str], None] = print,
) -> Iterator:
    """Yields what `make_iterator(step)` yields per step; after a read error goes on at that step.

    The order is a function of (seed, step), so nothing is skipped or seen twice. Waits double from
    `first_wait` seconds on. UserError: a step cannot be read after `max_retries`; names the files
    that are missing or were cut, if any.
    """
    step, failures, iterator = start_step, 0, None
    while True:
        try:
            iterator = iterator or make_iterator(step)
            element = next(iterator)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            iterator = None
            failures += 1
            if failures > max_retries:
                raise unreadable(manifest, step, failures, error) from error
            wait = first_wait * 2 ** (failures - 1)
            report(
                f"read error at step {step} ({type(error).__name__}: {reason_of(error)}); attempt "
                f"{failures} of {max_retries} in {wait:.0f} s"
            )
            sleep(wait)
            continue
        yield element
        step += 1
        failures = 0


def reason_of(error: tf.errors.OpError) -> str:
    """The line of a TensorFlow error that says what went wrong."""
    lines = [line.strip() for line in error.message.splitlines()]
    told = [line for line in lines if line and not line.startswith(("Graph execution", "Detected"))]
    return (told or ["no reason given"])[0][:300]


def unreadable(manifest: Manifest, step: int, failures: int, error: tf.errors.OpError) -> UserError:
    """The error of a step that could not be read, which names missing or cut files, if any."""
    check_files(manifest)
    return UserError(
        f"step {step}: the data could not be read in {failures} attempts "
        f"({type(error).__name__}: {reason_of(error)}). No listed file is "
        "missing or has changed its size; `python -m jest_tf.check --all_records` finds a corrupt "
        "one."
    )


class BadRecords:
    """Counts unusable records; stops a run when they are more than `max_share` of all."""

    SHOWN = 20

    def __init__(self, max_share: float, min_records: int = 10_000):
        self.max_share, self.min_records = max_share, min_records
        self.seen = self.bad = 0
        self.by_source: collections.Counter = collections.Counter()
        self.ids: dict[int, int] = {}  # id -> times seen, of the first thousand

    @property
    def share(self) -> float:
        return self.bad / max(self.seen, 1)

    def count(self, seen: int, bad: int) -> None:
        """Records of some steps, those of all processes together: every one judges alike."""
        self.seen += seen
        self.bad += bad

    def may_stop(self, more: int) -> bool:
        """Whether `check` could raise after `more` records whose state is not known yet."""
        seen, bad = self.seen + more, self.bad + more
        return seen >= self.min_records and bad / seen > self.max_share

    def list(self, ids: np.ndarray, valid: np.ndarray, source: np.ndarray) -> None:
        """Which of the records that this process has read are bad (any shape, equal for all)."""
        bad = ~np.asarray(valid, bool)
        self.by_source.update(np.asarray(source)[bad].tolist())
        for record_id in np.asarray(ids)[bad].tolist():
            if record_id in self.ids or len(self.ids) < 1000:
                self.ids[record_id] = self.ids.get(record_id, 0) + 1

    def check(self, manifest: Manifest) -> None:
        """Raises UserError, with the list, once the bad share passes the bound."""
        if self.seen < self.min_records or self.share <= self.max_share:
            return
        raise UserError(
            f"{self.bad:,} of {self.seen:,} records ({self.share:.1%}) could not be used; the "
            f"bound is {self.max_share:.1%}.{self._listed(manifest)}\n"
            "`python -m jest_tf.check --all_records` lists all with the reason; prepare the data "
            "again without them, or raise data.max_bad_share."
        )

    def _listed(self, manifest: Manifest) -> str:
        if not self.ids:
            return ""
        counts = self.by_source.items()
        per_source = ", ".join(f"{manifest.sources[s].name}: {n:,}" for s, n in counts)
        text = f" Since it started, this process met {per_source}; the first ones:"
        for record_id in [*self.ids][: self.SHOWN]:
            where = f"id {record_id}"
            if record_id < 0:  # it could not be read
                path, index = manifest.locate(-record_id - 1)
                where = f"{path} record {index} (not a readable tf.train.Example)"
            text += f"\n  {where}"
        return text
