"""Units of work by their numbers, and what is asked of --runner before Beam is imported."""

import json
import sys
import threading
from concurrent import futures

import numpy as np
import pytest
from commands import run
from small_pictures import write_pictures

from jest_tf import prepare
from jest_tf.data import prepare as units_of_prepare
from jest_tf.data import units
from jest_tf.data.sorted_runs import SortedRuns


def test_units_may_be_done_by_anyone_in_any_order_and_twice(tmp_path):
    write_pictures(tmp_path / "in" / "red", 10)
    command = ["folder", f"{tmp_path}/in", "--records_per_shard=3", "--classes_from_folders"]
    assert run(prepare, [*command, f"--out={tmp_path}/a"]) == 0
    assert run(prepare, [*command, f"--out={tmp_path}/b"]) == 0
    for path in [*(tmp_path / "b").glob("*-00000[123]*"), tmp_path / "b" / "manifest.json"]:
        path.unlink()
    settings = {"kind": "folder", "paths": [command[1]], "out": f"{tmp_path}/b", "split": []}
    settings |= {"records_per_shard": 3, "classes_from_folders": True}
    arguments = {"settings": settings, "n_units": 4}
    for index in (3, 1, 2, 1):
        units.do(index, units_of_prepare.OPENER, json.dumps(arguments))
    assert run(prepare, [*command, f"--out={tmp_path}/b"]) == 0
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert len(names) == 4 + 4 + 4 + 3 and names == {p.name for p in (tmp_path / "b").iterdir()}
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_worker_that_sees_other_files_is_told(tmp_path):
    write_pictures(tmp_path / "in" / "red", 2)
    settings = {"kind": "folder", "paths": [f"{tmp_path}/in"], "out": "no", "split": []}
    settings["classes_from_folders"] = True
    with pytest.raises(units.UserError, match="1 units are seen by a worker, and 7 by"):
        units_of_prepare.open_units(settings, 7)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--runner=DirectRunner"], "pip install 'jest_tf[beam]'"),
        (["--", "--flink_master=here"], "--flink_master=here is an option of Beam"),
    ],
)
def test_a_runner_that_is_not_installed_is_told(tmp_path, capsys, monkeypatch, flags, told):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert run(prepare, ["folder", f"{tmp_path}", f"--out={tmp_path}/out", *flags]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("error:") == 1


def test_results_come_in_order_and_few_are_held():
    begun, gate = [], threading.Event()

    def work(n):
        begun.append(n)
        if n == 0:
            gate.wait()
        return n

    with futures.ThreadPoolExecutor(4) as pool:
        results = units.in_order(pool, work, range(500))
        threading.Timer(0.2, gate.set).start()
        assert next(results) == 0 and len(begun) <= units.AHEAD
        assert list(results) == list(range(1, 500))


@pytest.mark.parametrize("run_length", [7, 1000])
def test_ids_are_found_in_sorted_runs(run_length):
    rng = np.random.default_rng(0)
    runs, expected = SortedRuns(run_length), {}
    for part in range(9):
        ids = rng.integers(-40, 40, 5)
        runs.add(ids, part)
        for row, record_id in enumerate(ids.tolist()):
            expected.setdefault(record_id, (part, row))
    parts, rows = runs.find(np.arange(-50, 50))
    for record_id, part, row in zip(range(-50, 50), parts, rows, strict=True):
        assert (part, row) == expected.get(record_id, (-1, 0))
