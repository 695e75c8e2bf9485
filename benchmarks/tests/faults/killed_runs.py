"""Runs of the shipped command, killed where it hurts; prints what came of them as JSON.

    python -m benchmarks.tests.faults.killed_runs FOLDER

A process of its own, because it must import TensorFlow without using it: each run is forked from it
and so costs no import.
"""

import json
import os
import pathlib
import signal
import sys
import time

import tensorflow as tf

from benchmarks.faults import tiny_run
from benchmarks.faults.state import differing_parts, state_of
from jest_tf.training import evaluating, host_loop
from jest_tf.training.run import checkpoint, storage

STEPS = 14  # saved after every 4, evaluated after every 6


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_step_6() -> None:
    """After the update of the weights, before anything of the step is written down.

    The checkpoint of step 4 is saved by then.
    """

    def save_now(self, step, variables, state, first):
        first()
        self.save(step, variables, state)

    checkpoint.Checkpointer.save_later = save_now
    run, n_steps = host_loop.HostLoop.run, [0]

    def run_or_death(self, plan, n, note):
        result = run(self, plan, n, note)
        n_steps[0] += n
        if n_steps[0] == 6:
            die()
        return result

    host_loop.HostLoop.run = run_or_death


def in_save_of_step_8() -> None:
    """Half of the files of the checkpoint are written."""
    write = storage.write_tensors

    def write_and_die(file, values):
        described = write(file, values)
        if int(values["optimizer/adamw/iteration"]) == 8:
            die()
        return described

    storage.write_tensors = write_and_die


def in_evaluation_of_step_12() -> None:
    """The result is on the disk, its scalars are not; the checkpoint of the step is saved."""
    write = evaluating.write_result

    def write_and_die(folder, result):
        write(folder, result)
        if result["step"] == 12:
            die()

    evaluating.write_result = write_and_die


def clock_going_backwards() -> None:
    """Every look at the clock gives an earlier day."""
    began, looks = time.time(), [0]

    def earlier() -> float:
        looks[0] += 1
        return began - 86400 * looks[0]

    time.time = earlier


def main(folder: pathlib.Path) -> None:
    log = folder / "log.txt"

    def run(name: str, plant=lambda: None) -> int:
        command = tiny_run.arguments(
            folder / "data", folder / name, "--config.model.variant=nano",
            kind="criterion=hard_learner", steps=STEPS,
        )  # fmt: skip
        return ended(tiny_run.fork_train(command, log, plant))

    def ended(pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    # As in conftest.py: a graph that runs a few times is not worth rewriting.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    # Writing records uses TensorFlow, so that not even this may happen here.
    assert ended(tiny_run.fork(lambda: tiny_run.write_data(folder / "data"), log)) == 0
    codes = [run("undisturbed")]
    left = []
    for plant in (in_step_6, in_save_of_step_8, in_evaluation_of_step_12):
        codes.append(run("killed", plant))
        left.append(sorted(p.name for p in (folder / "killed" / "checkpoints").iterdir()))
    codes.append(run("killed", clock_going_backwards))
    found, expected = state_of(folder / "killed"), state_of(folder / "undisturbed")
    print(
        json.dumps(
            {
                "codes": codes,
                "left": left,
                "differing": differing_parts(found, expected),
                "parts": sorted(expected),
                "step": found["step"],
                "n_metrics": len(found["metrics"]),
                "n_picks": len(found["picks"]) // 64,
                "evaluations": sorted(found["evaluations"]),
                "log": log.read_text(encoding="utf-8", errors="replace")[-3000:],
            }
        )
    )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
