"""Two worker processes through the launch script: as one device does, also after one was killed."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
from multi_worker_run import SAVED_EVERY, STEPS, config_of, shrink_towers

from jest_tf.models import dual_encoder
from jest_tf.monitoring.metrics_log import read_metrics
from jest_tf.monitoring.picks_log import Picks
from jest_tf.training import loop

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
KILLED_AFTER = SAVED_EVERY + 2
# Embeddings, losses and weights differ by rounding between layouts, and steps carry it on.
LOSS_RTOL = 1e-4
MAX_FLIPS = 2  # of STEPS x 8 picks: at near-ties rounding may decide otherwise


def two_workers(logs: pathlib.Path, *arguments) -> tuple[int, list[str]]:
    """Exit code of the launch script and the logs of both workers."""
    done = subprocess.run(
        [
            ROOT / "launch/multi_worker.sh", "--workers", "2", "--port", str(two_free_ports()),
            "--logs", logs, "--", sys.executable, HERE / "multi_worker_run.py", "multi_worker",
            *map(str, arguments),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )  # fmt: skip
    return done.returncode, [(logs / f"worker-{i}.log").read_text() for i in range(2)]


def two_free_ports() -> int:
    """The first of two neighbouring ports that nobody uses."""
    for port in range(23_456 + os.getpid() % 5_000, 60_000, 2):
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("localhost", port))
                two.bind(("localhost", port + 1))
            except OSError:
                continue
            return port
    raise RuntimeError("no two neighbouring ports are free")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Empty: the first workers to use it prepare it, one after the other."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def killed(data_dir, tmp_path_factory):
    """(workdir, exit code, logs) of two workers of which the chief died."""
    folder = tmp_path_factory.mktemp("two workers")
    workdir = folder / "run"
    return workdir, *two_workers(folder / "logs-killed", data_dir, workdir, KILLED_AFTER)


def test_the_other_worker_stops_and_says_why_when_one_is_killed(killed):
    workdir, code, (chief, other) = killed
    assert code == 128 + 9, chief + other
    assert "Another worker process is gone: this one stops too." in other, other
    assert "start all workers again with the same command" in other
    assert "Traceback" not in other
    saved = [p.name for p in (workdir / "checkpoints").iterdir() if p.name[0] != "."]
    assert saved == [f"step-{SAVED_EVERY:08d}"]


def test_started_again_two_workers_end_as_one_uninterrupted_device(
    killed, data_dir, tmp_path, monkeypatch
):
    workdir, *_ = killed
    code, logs = two_workers(tmp_path / "logs", data_dir, workdir)
    assert code == 0, "\n".join(logs)
    assert f"steps {SAVED_EVERY} to {STEPS}" in logs[0]
    assert "2 replica(s)" in logs[0]

    one = tmp_path / "one device"
    monkeypatch.setattr(dual_encoder, "VARIANTS", dict(dual_encoder.VARIANTS))
    shrink_towers()
    assert loop.train(config_of("default", str(data_dir)), str(one)) == 0
    flips = sum(
        len(set(Picks(one / "picks").ids(step)) - set(Picks(workdir / "picks").ids(step)))
        for step in range(1, STEPS + 1)
    )
    print(f"{flips} of {STEPS * 8} picks differ")
    assert flips <= MAX_FLIPS
    found, expected = losses(workdir), losses(one)
    assert list(found) == list(expected) == [STEPS]
    if not flips:
        np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=LOSS_RTOL)
        for name, weight in weights(one).items():
            np.testing.assert_allclose(weights(workdir)[name], weight, rtol=1e-3, atol=1e-4)


def losses(workdir: pathlib.Path) -> dict[int, float]:
    return {line["step"]: line["train/loss"] for line in read_metrics(workdir / "metrics.jsonl")}


def weights(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    file = workdir / "checkpoints" / f"step-{STEPS:08d}" / "variables.npz"
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if name.startswith("learner/")}
