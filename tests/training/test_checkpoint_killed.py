"""kill -9 at random moments: what is restored belongs together, and no line is lost or doubled."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf

from jest_tf.monitoring.metrics_log import read_metrics
from jest_tf.monitoring.picks_log import Picks
from jest_tf.training.checkpoint import Checkpointer

N_KILLS = 2
# As the loop does: log, bring to disk, save; on start restore and cut. The "weights" after step k
# are k + 0, k + 1, …, so a mixture of two steps would show.
RUN = """
import sys
import numpy as np, tensorflow as tf
from jest_tf.monitoring.metrics_log import MetricsLog
from jest_tf.monitoring.picks_log import PicksLog
from jest_tf.training.checkpoint import Checkpointer

folder, last = sys.argv[1], int(sys.argv[2])
weights = {f"w{i}": tf.Variable(np.zeros([30_000], np.float32)) for i in range(6)}
checkpoints = Checkpointer(folder + "/checkpoints", keep=2)
state = checkpoints.restore(weights)
assert checkpoints.damaged == []
step = state["step"] if state else 0
metrics = MetricsLog(folder + "/metrics.jsonl", step, now=lambda: 0.0)
picks = PicksLog(folder + "/picks", 64, 1, step)
while step < last:
    step += 1
    for i, variable in enumerate(weights.values()):
        variable.assign(tf.fill([30_000], float(step + i)))
    metrics.write(step, {"loss": 1 / step})
    picks.write(step, np.arange(64) * step)
    if step % 3 == 0 or step == last:
        metrics.sync(); picks.sync()
        checkpoints.save(step, weights, {"step": step})
"""


def start(folder, last):
    return subprocess.Popen([sys.executable, "-c", RUN, str(folder), str(last)])


def newest(checkpoints) -> int:
    return max(checkpoints.steps(), default=0)


def test_killed_runs_end_as_an_uninterrupted_one(tmp_path):
    rng = random.Random(0)
    checkpoints = Checkpointer(tmp_path / "checkpoints")
    for _ in range(N_KILLS):
        before = newest(checkpoints)
        with start(tmp_path, 10**6) as process:
            deadline = time.monotonic() + 120
            while newest(checkpoints) <= before and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        assert newest(checkpoints) > before
    last = newest(checkpoints) + 10
    assert start(tmp_path, last).wait(timeout=120) == 0

    weights = {f"w{i}": tf.Variable(np.zeros([30_000], np.float32)) for i in range(6)}
    assert checkpoints.restore(weights) == {"step": last}
    assert [float(v[0]) for v in weights.values()] == [last + i for i in range(6)]
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [
        *range(1, last + 1)
    ]
    picks = Picks(tmp_path / "picks")
    assert picks.last_step == last
    expected = np.arange(1, last + 1)[:, None] * np.arange(64)
    np.testing.assert_array_equal(picks.window(1, last), expected)
    assert not [p for p in (tmp_path / "checkpoints").iterdir() if p.name.startswith(".")]
