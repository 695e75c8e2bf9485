"""kill -9 in a step, in a save, in an evaluation: the run ends as if nothing had happened.

All of it in surroundings that programs tend to trip over: no locale, a far time zone, no home, a
folder with spaces and letters beyond ASCII, and in the last run a clock that goes backwards.
"""

import json
import os
import pathlib
import subprocess
import sys

# Not even root can make a folder below /proc.
SURROUNDINGS = {"LC_ALL": "C", "TZ": "Pacific/Kiritimati", "HOME": "/proc/nobody"}
SCRIPT = "benchmarks.tests.faults.killed_runs"
ROOT = pathlib.Path(__file__).parents[3]


def test_a_run_killed_at_the_worst_points_equals_an_undisturbed_one(tmp_path):
    folder = tmp_path / "ein Lauf é中"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", SCRIPT, str(folder)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
        env=os.environ | SURROUNDINGS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    came_of = json.loads(done.stdout.splitlines()[-1])
    assert came_of["codes"] == [0, -9, -9, -9, 0], came_of["log"]
    # Where each kill struck: after a save, in a save (a stage is left), after another save.
    in_step, in_save, in_evaluation = came_of["left"]
    assert in_step == ["step-00000004"]
    assert [name.startswith(".staging-step-00000008") for name in in_save] == [True, False]
    assert in_evaluation == ["step-00000004", "step-00000008", "step-00000012"]
    assert came_of["differing"] == []
    # What was compared was there.
    expected = [
        "evaluations",
        "known",
        "ledger",
        "metrics",
        "picks",
        "records",
        "step",
        "variables",
    ]
    assert came_of["parts"] == expected
    assert (came_of["step"], came_of["n_picks"]) == (14, 14)
    assert came_of["n_metrics"] == 7 + 3  # every 2 steps, and evaluations after 6, 12 and the end
    assert came_of["evaluations"] == [f"retrieval-{step:08d}.json" for step in (6, 12, 14)]
