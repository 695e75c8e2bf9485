"""`python dying_worker.py MARK prepare|curate ARGUMENTS…`, one of whose workers dies once.

It is killed when unit 5 is to be done and MARK is not there yet.
"""

import os
import pathlib
import signal
import sys

from jest_tf import cli, curate, prepare
from jest_tf.data import near_duplicates
from jest_tf.data import prepare as units_of

MARK = "JEST_TEST_MARK"


def open_units(**arguments):
    """Stands in for `jest_tf.data.prepare.open_units`."""
    return _dying(units_of.open_units(**arguments))


def open_comparisons(**arguments):
    """Stands in for `near_duplicates.open_units`."""
    return _dying(near_duplicates.open_units(**arguments))


def _dying(do):
    def one(index):
        mark = pathlib.Path(os.environ[MARK])
        if index == 5 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        do(index)

    return one


if __name__ == "__main__":
    os.environ[MARK] = sys.argv.pop(1)
    command = {"prepare": prepare, "curate": curate}[sys.argv.pop(1)]
    units_of.OPENER = "dying_worker:open_units"
    near_duplicates.OPENER = "dying_worker:open_comparisons"
    cli.run(command.main, command.FLAGS)
