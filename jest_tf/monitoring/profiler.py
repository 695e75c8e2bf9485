"""Traces of a few steps on demand, for TensorBoard's Profile tab."""

import contextlib
import os
from collections.abc import Iterator

import tensorflow as tf
from absl import logging


class StepProfiler:
    """Traces the first to the last of `steps` (from 1), for TensorBoard's tab; None: nothing."""

    def __init__(self, steps: tuple[int, int] | None, logdir: str | os.PathLike):
        self._steps = steps
        self._logdir = os.fspath(logdir)
        self.is_tracing = False

    @contextlib.contextmanager
    def around(self, finished_steps: int, n_steps: int) -> Iterator[None]:
        """Runs the next `n_steps` steps; calls that hold a step to trace are traced whole."""
        last_of_call = finished_steps + n_steps
        is_wanted = self._steps and self._steps[0] <= last_of_call
        if is_wanted and finished_steps < self._steps[1] and not self.is_tracing:
            tf.profiler.experimental.start(self._logdir)
            self.is_tracing = True
        try:
            with tf.profiler.experimental.Trace("steps", step_num=last_of_call, _r=1):
                yield
        except BaseException:
            self.stop()
            raise
        if self._steps and last_of_call >= self._steps[1]:
            self.stop()

    def stop(self) -> None:
        """Ends a trace that is under way; for a run that ends before the last step to trace."""
        if self.is_tracing:
            tf.profiler.experimental.stop()
            self.is_tracing = False
            logging.info("Wrote the trace of steps %d-%d to %s.", *self._steps, self._logdir)
