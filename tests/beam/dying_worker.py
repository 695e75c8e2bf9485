"""`python dying_worker.py MARK ARGUMENTS…`: `prepare ARGUMENTS`, one of whose workers dies once.

It is killed when unit 5 is to be done and MARK is not there yet.
"""

import os
import pathlib
import signal
import sys

from jest_tf import cli, prepare
from jest_tf.data import near_duplicates
from jest_tf.data import prepare as units_of

MARK = "JEST_TEST_MARK"


def open_units(**arguments):
    """Stands in for `jest_tf.data.prepare.open_units`."""
    do = units_of.open_units(**arguments)

    def one(index):
        mark = pathlib.Path(os.environ[MARK])
        if index == 5 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        do(index)

    return one


def open_comparisons(**arguments):
    """Stands in for `near_duplicates.open_units`, without a process that must start to die."""
    do = near_duplicates.open_units(**arguments)

    def one(index):
        if index == 5:
            raise OSError("the worker of this unit is gone")
        do(index)

    return one


if __name__ == "__main__":
    os.environ[MARK] = sys.argv.pop(1)
    units_of.OPENER = "dying_worker:open_units"
    cli.run(prepare.main, prepare.FLAGS)
