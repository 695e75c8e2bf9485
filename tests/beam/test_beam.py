"""--runner: the same bytes as local threads write, whatever dies on the way."""

import io
import os
import pathlib
import subprocess
import sys

import commands
import numpy as np
import pytest
from PIL import Image

from jest_tf import audit, cache_reference, curate, prepare
from jest_tf.data.sources import open_source

HERE = pathlib.Path(__file__).parent
N = 30
IN_MEMORY = ["--runner=DirectRunner", "--", "--direct_running_mode=in_memory"]
PROCESSES = [*IN_MEMORY[:2], "--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """30 pictures with captions, three of them broken."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for n in range(N):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, [40, 50, 3], np.uint8)).save(out, "JPEG")
        (folder / f"{n:02d}.jpg").write_bytes(b"<html>" if n % 10 == 3 else out.getvalue())
        (folder / f"{n:02d}.txt").write_text(f"picture {n}")
    return folder


@pytest.fixture(scope="module")
def local(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("local")
    assert commands.run(prepare, arguments(pictures, out)) == 0
    return out


def arguments(pictures, out) -> list[str]:
    return ["folder", f"{pictures}", f"--out={out}", "--records_per_shard=3", "--max_side=32"]


def content(folder) -> dict[str, bytes]:
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in files.items()}


def a_worker_is_killed(command: str, given: list[str], mark: pathlib.Path) -> None:
    """Runs it in several processes, one of which gets SIGKILL: the command ends and says so."""
    words = [sys.executable, HERE / "dying_worker.py", mark, command, *given, *PROCESSES]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    done = subprocess.run(words, capture_output=True, text=True, timeout=1200, env=env)
    assert done.returncode == 2 and mark.exists(), done.stderr
    assert "the same command goes on from there" in done.stderr


def test_a_killed_worker_loses_nothing_and_the_bytes_are_those_of_threads(
    pictures, local, tmp_path, capfd
):
    out = tmp_path / "out"
    a_worker_is_killed("prepare", arguments(pictures, out), tmp_path / "mark")
    assert not (out / "manifest.json").exists() and not (out / "unit-000005.json").exists()
    before = {p: p.stat().st_mtime_ns for p in out.glob("unit-*")}
    assert commands.run(prepare, [*arguments(pictures, out), *IN_MEMORY]) == 0
    assert "27 records in" in capfd.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert content(out) == content(local)


def test_embeddings_audit_and_subset_are_the_same_bytes(local, tmp_path):
    manifest = open_source(str(local))
    ids = [r for i in range(len(manifest.shards)) for r in np.fromfile(local / f"unit-{i:06d}.ids")]
    assert len(ids) == manifest.n_records
    values = np.random.default_rng(1).normal(size=[2, len(ids), 8]).astype(np.float32)
    np.savez(tmp_path / "e.npz", id=np.array(ids).view(np.int64), zimg=values[0], ztxt=values[1])
    caches, tables = [], []
    for name, how in (("threads", []), ("beam", IN_MEMORY)):
        caches.append(tmp_path / f"cache-{name}")
        given = [f"--embeddings={tmp_path}/e.npz", "--scale=10", "--bias=-5", "--dim=8"]
        given += [f"--data={local}", f"--out={caches[-1]}", *how]
        assert commands.run(cache_reference, given) == 0
        tables.append(tmp_path / name / "audit.parquet")
        given = [f"--data={local}", f"--reference={caches[0]}", f"--out={tables[-1]}", *how]
        assert commands.run(audit, given) == 0
    assert content(caches[0]) == content(caches[1]) and len(content(caches[0])) == 12
    assert tables[0].read_bytes() == tables[1].read_bytes()
    subsets = [tmp_path / name / "subset" for name in ("threads", "beam")]
    for out, how in zip(subsets, ([], PROCESSES), strict=True):
        given = [f"--audit={tables[0]}", f"--data={local}", f"--embeddings={caches[0]}"]
        given += ["--dedup=0.5", f"--out={out}"]
        if how:
            a_worker_is_killed("curate", given, tmp_path / "mark")
            left = {path.name for path in (out / "near_duplicates.parts").iterdir()}
            assert "means.npy" in left and "assign-000005.done.npy" not in left
            assert not (out / "manifest.json").exists()
        assert commands.run(curate, [*given, "--write=manifest,keys.parquet,keys.csv", *how]) == 0
    assert 0 < len((subsets[0] / "keys.csv").read_text().splitlines()) - 1 < len(ids)
    written = [content(out) for out in subsets]
    for files in written:
        del files["manifest.json"]  # which names the folder
    assert written[0] == written[1] and len(written[0]) == 4


@pytest.mark.parametrize(
    ("runner", "told"),
    [("DataflowRunner", "Missing required option: project"), ("SparkRunner", "job-server")],
)
def test_a_runner_that_is_not_there_is_told_in_one_message(
    pictures, tmp_path, capsys, runner, told
):
    flags = [f"--runner={runner}", "--", "--spark_job_server_jar=/no/job-server.jar"]
    assert commands.run(prepare, [*arguments(pictures, tmp_path / "out"), *flags]) == 2
    error = capsys.readouterr().err
    assert f"error: --runner={runner}: " in error and told in error and "Traceback" not in error


def test_a_units_own_error_is_told_as_it_is(local, tmp_path, capsys):
    np.savez(tmp_path / "e.npz", id=np.arange(3), zimg=np.eye(3), ztxt=np.eye(3))
    given = [f"--embeddings={tmp_path}/e.npz", "--scale=10", "--bias=-5", "--dim=3"]
    given += [f"--data={local}", f"--out={tmp_path}/cache", *IN_MEMORY]
    assert commands.run(cache_reference, given) == 2
    assert "has no embedding in" in capsys.readouterr().err
