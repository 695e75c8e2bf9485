"""Read errors inside a program of several steps: the run goes on from its newest checkpoint."""

import time
from collections.abc import Callable

import tensorflow as tf
from absl import logging

from jest_tf.data.retry import reason_of, unreadable
from jest_tf.errors import UserError
from jest_tf.runtime.peers import is_read_error

MAX_RETRIES = 5  # without a new step in between; the waits double from a second on


def run_reading_again(begin: Callable, sleep: Callable[[float], None] = time.sleep) -> int:
    """`Trainer.run` of a new trainer, and of another one after each read error.

    A program of several steps may have been under way, and only a checkpoint is known to be whole:
    `begin` restores the newest. UserError: a step could not be read after all retries.
    """
    failures, furthest, trainer = 0, -1, None
    while True:
        try:
            trainer = begin()
        except UserError:
            # Missing files are wrong input at the start, but after a read error they may come back.
            if not 0 < failures < MAX_RETRIES:
                raise
            failures += 1
        else:
            error = _read_error_of(trainer)
            if not isinstance(error, tf.errors.OpError):
                return error
            failures = 1 if trainer.step > furthest else failures + 1
            furthest = max(furthest, trainer.step)
            if failures > MAX_RETRIES:
                manifest = trainer.inputs.manifest
                raise unreadable(manifest, trainer.step, failures, error) from error
            logging.warning(
                "read error after step %d (%s: %s); attempt %d of %d, from the newest checkpoint",
                trainer.step, type(error).__name__, reason_of(error),
                failures, MAX_RETRIES,
            )  # fmt: skip
        trainer = error = None  # its weights, before those of the next
        sleep(2.0 ** (failures - 1))


def _read_error_of(trainer) -> tf.errors.OpError | int:
    """The read error that ended the trainer, or its exit code."""
    try:
        return trainer.run()
    except tf.errors.OpError as error:
        if not (is_read_error(error) or "IteratorGetNext" in error.message):
            raise
        trainer.outputs.close()
        return error.with_traceback(None)  # its frames hold the trainer
