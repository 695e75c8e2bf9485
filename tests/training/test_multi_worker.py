"""Two worker processes through the launch script: as one device does, though one was killed and one
asked to stop on the way.

Two and four replicas in one process: test_replicas_agree.py.
"""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import agreement
import near_ties
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from multi_worker_run import SAVED_EVERY, STEPS, config_of
from small_shards import example, write_shard

from jest_tf.data.manifest import Manifest, Source
from jest_tf.monitoring.metrics_log import read_metrics
from jest_tf.monitoring.picks_log import Picks
from jest_tf.results import read_result
from jest_tf.training import assemble, loop
from jest_tf.training.run.checkpoint import Checkpointer

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
KILLED_AFTER = SAVED_EVERY + 2
STOPPED_AFTER = 2 * SAVED_EVERY + 1
# Embeddings, losses and weights differ by rounding between layouts, and steps carry it on.
LOSS_RTOL = 1e-4
WAYS = ("image_to_text", "text_to_image")


def two_workers(logs: pathlib.Path, *arguments) -> tuple[int, list[str]]:
    """Exit code of the launch script and the logs of both workers."""
    done = subprocess.run(
        [
            ROOT / "launch/multi_worker.sh", "--workers", "2", "--port", str(two_free_ports()),
            "--logs", logs, "--", sys.executable, HERE / "multi_worker_run.py", "multi_worker",
            *map(str, arguments),
        ],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
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
    """Random pairs. The first workers to use them make the vocabulary, one after the other."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    pictures = rng.integers(0, 256, [96, 16, 16, 3], np.uint8)
    records = [
        example(id=n, image=tf.io.encode_png(picture).numpy(), captions=f"picture {n} of {n % 7}")
        for n, picture in enumerate(pictures)
    ]
    shards = [write_shard(folder / f"{i}.tfrecord", records[i::2]) for i in range(2)]
    Manifest("random", (Source("random", id="id"),), tuple(shards)).save(str(folder / "data.json"))
    return folder


@pytest.fixture(scope="module")
def killed(data_dir, tmp_path_factory):
    """(workdir, exit code, logs) of two workers of which the chief died."""
    folder = tmp_path_factory.mktemp("two workers")
    workdir = folder / "run"
    told = KILLED_AFTER, "SIGKILL", 0
    return workdir, *two_workers(folder / "logs-killed", data_dir, workdir, *told)


@pytest.fixture(scope="module")
def stopped(data_dir, killed):
    """(workdir, exit code, logs) of the same run, started again: worker 1 gets a SIGTERM."""
    workdir, told = killed[0], (STOPPED_AFTER, "SIGTERM", 1)
    return workdir, *two_workers(workdir.parent / "logs-stopped", data_dir, workdir, *told)


def test_the_other_worker_stops_and_says_why_when_one_is_killed(killed):
    workdir, code, (chief, other) = killed
    assert code == 128 + 9, chief + other
    assert "Another worker process or host is gone: this one stops too." in other, other
    assert "start all workers again with the same command" in other
    assert "Traceback" not in other
    saved = [p.name for p in (workdir / "checkpoints").iterdir() if p.name[0] != "."]
    assert saved == [f"step-{SAVED_EVERY:08d}"]


def test_sigterm_to_any_worker_saves_and_ends_all(stopped):
    workdir, code, logs = stopped
    assert code == 128 + 15, "\n".join(logs)
    assert f"steps {SAVED_EVERY} to {STEPS}" in logs[0]
    for log in logs:
        assert f"SIGTERM: saved at step {STOPPED_AFTER + 1} of {STEPS}" in log, log
        assert "Traceback" not in log


def test_each_worker_writes_its_share_and_one_process_reads_all(stopped):
    workdir, *_ = stopped
    folder = workdir / "checkpoints" / f"step-{STOPPED_AFTER + 1:08d}"
    of_other = json.loads((folder / "share-00001.json").read_text())
    files = {path.name for path in folder.glob("variables-*.safetensors")}
    assert len(files) > 2 and set(of_other) < files
    assert abs(len(files) - 2 * len(of_other)) <= 1
    variables = {
        name: tf.Variable(np.zeros_like(array))
        for file in files
        for name, array in safetensors.numpy.load_file(folder / file).items()
    }
    assert Checkpointer(workdir / "checkpoints").restore(variables)["step"] == STOPPED_AFTER + 1
    assert all(np.any(v.numpy()) for name, v in variables.items() if name.endswith("kernel"))


def test_started_again_two_workers_end_as_one_uninterrupted_device(stopped, data_dir, tmp_path):
    workdir, *_ = stopped
    code, logs = two_workers(tmp_path / "logs", data_dir, workdir)
    assert code == 0, "\n".join(logs)
    assert f"steps {STOPPED_AFTER + 1} to {STEPS}" in logs[0]
    assert "2 replica(s)" in logs[0]

    one, config = tmp_path / "one device", config_of("default", str(data_dir))
    alone = steps_of_one_device(config, one)
    picks = [Picks(workdir / "picks").ids(step) for step in range(1, STEPS + 1)]
    alike = near_ties.steps_alike(assemble.selection_spec(config), alone, picks)
    found, expected = losses(workdir), losses(one)
    assert list(found) == list(expected) == list(range(SAVED_EVERY, STEPS + 1, SAVED_EVERY))
    for step in range(SAVED_EVERY, alike + 1, SAVED_EVERY):
        assert found[step] == pytest.approx(expected[step], rel=LOSS_RTOL)
    results = [read_result(folder / "evaluations", "retrieval", STEPS) for folder in (workdir, one)]
    assert results[0]["data"] == results[1]["data"]
    recalls = [[result["metrics"][f"{way}/recall@10"] for way in WAYS] for result in results]
    assert recalls[0] == pytest.approx(recalls[1], abs=0.1)
    if alike == STEPS:
        moments = [saved(folder, r"optimizer/.*momentum") for folder in (workdir, one)]
        agreement.assert_arrays_alike(*moments, agreement.MANY_STEPS)
        agreement.assert_weights_alike(*(saved(folder, "learner/.*") for folder in (workdir, one)))


def steps_of_one_device(config, workdir: pathlib.Path) -> list:
    """Trains in this process; the results of all steps, one by one."""
    results = []
    assert loop.train(config, str(workdir), lambda step, result: results.append(result)) == 0
    return results


def losses(workdir: pathlib.Path) -> dict[int, float]:
    lines = read_metrics(workdir / "metrics.jsonl")
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def saved(workdir: pathlib.Path, name: str) -> list[np.ndarray]:
    """The last checkpoint's arrays of these names."""
    arrays = {}
    for file in (workdir / "checkpoints" / f"step-{STEPS:08d}").glob("*.safetensors"):
        arrays |= safetensors.numpy.load_file(file)
    return [arrays[found] for found in sorted(arrays) if re.fullmatch(name, found)]
