"""Worker processes that train together: who goes first, what all know, and when one is gone."""

import contextlib
import functools
import re
from collections.abc import Iterator, Sequence

import tensorflow as tf
from absl import logging

from jest_tf.errors import UserError

# What an exchange raises when a process it needs has died or cannot be reached.
LOST_PEER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
READ_WORDS = re.compile(r"\b(gs|s3|hdfs)://|storage\.googleapis|\.tfrecord|when reading ", re.I)


class WorkerLost(RuntimeError):
    """Another worker process has gone, so that this one cannot go on either."""


class Peers:
    """The worker processes of a run; alone, nothing is exchanged.

    All workers must call all methods that exchange, in the same order. is_chief: whether this is
    the one that writes. n_hosts: machines that share the run; those of a TPU slice serve one
    process.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy, n_workers: int, is_chief: bool, n_hosts: int
    ):
        self._strategy, self.n_workers, self._is_chief = strategy, n_workers, is_chief
        self._n_hosts = n_hosts
        self._asked = None

    def of_all(self, value: int) -> list[int]:
        """`value` (64 bits) of every replica of every worker, the same list everywhere."""
        return [value] if self.n_workers == 1 else self._ask(value).numpy().tolist()

    def of_all_before(self, value: int) -> list[int]:
        """`of_all` of the call before ([0] at first) among several workers: no step waits."""
        if self.n_workers == 1:
            return [value]
        before, self._asked = self._asked, self._ask(value)
        return [0] if before is None else before.numpy().tolist()

    def _ask(self, value: int) -> tf.Tensor:
        summed = self._exchange(tf.constant(value, tf.int64))
        return self._strategy.experimental_local_results(summed)[0]

    @contextlib.contextmanager
    def chief_first(self) -> Iterator[None]:
        """The body, which exchanges nothing, runs on the chief, then on the others, if it ends."""
        if not self._is_chief:
            self.of_all(0)
        yield
        if self._is_chief:
            self.of_all(0)

    def require_equal(self, value: int, problem: str) -> None:
        """Raises UserError(`problem`, with the values) in all workers where theirs differ."""
        values = self.of_all(value)
        if len(set(values)) > 1:
            raise UserError(f"{problem} {', '.join(map(str, values))}.")

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Turns the error of an exchange that lost its peer into WorkerLost, told at once.

        Whoever started the processes may kill this one within milliseconds.
        """
        try:
            yield
        except LOST_PEER_ERRORS as error:
            # The runtime's own words: seen with a killed worker in a step, a barrier, the scope.
            is_named = "Collective" in error.message or "/job:worker" in error.message
            if self._n_hosts == 1 or not is_named or is_read_error(error):
                raise
            logging.error(
                "Another worker process or host is gone: this one stops too. Its own log says why. "
                "What was saved last is kept; start all workers again with the same command to "
                "continue from there. (%s)", _reason(error),
            )  # fmt: skip
            raise WorkerLost from error

    @functools.cached_property
    def _exchange(self):
        def on_replica(value: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            mine = tf.range(context.num_replicas_in_sync) == context.replica_id_in_sync_group
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(mine, value, 0))

        return tf.function(lambda value: self._strategy.run(on_replica, args=(value,)))


def is_read_error(error: tf.errors.OpError) -> bool:
    """Whether an error came from reading data, by what TensorFlow names in it; not all say so.

    Such an error is none of an exchange, even if its text names the host that was reading.
    """
    return isinstance(error, tf.errors.DataLossError) or bool(READ_WORDS.search(error.message))


def _reason(error: tf.errors.OpError) -> str:
    lines: Sequence[str] = error.message.splitlines()
    told = [line for line in lines if "aborted by" in line or "/job:worker" in line]
    return (told or lines)[0].strip()[:300]
