"""Two devices with TensorFlow's own choice of exchanges train as one device does."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
PLACES = [HERE.parents[1], HERE.parent, HERE]


def test_tensorflows_own_exchanges_give_the_same_steps():
    done = subprocess.run(
        [sys.executable, HERE / "default_collectives_run.py"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, PLACES))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    one, two = found["1"], found["2"]
    assert two["ops"] == "CollectiveAllReduce"
    assert two["picks"] == one["picks"] and two["code"] == one["code"]
    for name in ("loss", "norm"):
        assert two[name] == pytest.approx(one[name], rel=1e-4)
