"""The runner with a stand-in for training: order, resuming, failures, time bound, interrupts."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import threading
import time

import evidence_fake_run
import pytest

from benchmarks.evidence import grid, results, runner, suites, tuning
from benchmarks.evidence.estimate import FIRST_RATE, FIXED_SECONDS, Estimate
from benchmarks.evidence.grid import RATE, Row, make_cells
from benchmarks.evidence.prepare import base_commands
from benchmarks.evidence.runner import Folders, Runner, finished, to_run, train_command

SCRIPT = str(pathlib.Path(evidence_fake_run.__file__))
ROWS = (
    Row("reference", "r", "headline", "reference,steps=20,validate_every=10"),
    Row("tune_a_0.001", "t", "trial", "policy=uniform,steps=20,validate_every=10",
        ((RATE, 1e-3),), (100,)),
    Row("a", "a", "headline", "policy=joint,steps=20,validate_every=10", (), (0, 1),
        reference="reference", reference_seed=0, tuned_as=("a",)),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _quick_polls_and_own_package(monkeypatch):
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.05)
    root = str(pathlib.Path(__file__).resolve().parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def cells():
    return make_cells(ROWS, ["a"])


@pytest.fixture
def folders(tmp_path):
    return Folders(
        tmp_path / "work", tmp_path / "out" / "runs.jsonl.gz", "data/prepared", "clean.json"
    )


@pytest.fixture
def started():
    return []


@pytest.fixture
def make(cells, folders, pool_truth, started):
    """A runner whose cells take the given mode, `ok` if not named."""

    def build(modes=(), **options) -> Runner:
        def commands(cell, rate):
            started.append((cell.name, rate))
            config = json.dumps(cell.config.to_dict())
            mode = dict(modes).get(cell.name, "ok")
            train = ["python", SCRIPT, config, str(folders.of(cell)), mode]
            cache = folders.cache_of(cell)
            make_cache = f"import pathlib; p = pathlib.Path({str(cache)!r}); p.mkdir(exist_ok=True)"
            make_cache += "; (p / 'cache.json').write_text('{}')"
            is_reference = cell.row.name == "reference"
            return [train, ["python", "-c", make_cache]] if is_reference else [train]

        said = []
        made = Runner(cells, folders, pool_truth, commands=commands, say=said.append, **options)
        made.said = said
        return made

    return build


def results_of(folders) -> dict:
    return results.Store(folders.results).read()


def forget(folders, name: str) -> None:
    kept = results_of(folders)
    folders.results.unlink()
    for other in set(kept) - {name}:
        results.Store(folders.results).add(kept[other])


def test_runs_in_order_and_keeps_results(make, folders, started):
    kept = []
    made = make(on_result=lambda path, cell: kept.append((path, cell.name)))
    assert made.run() == 0, made.said
    assert [name for name, _ in started] == ["tune_a_0.001-s100", "reference-s0", "a-s0", "a-s1"]
    assert dict(started)["a-s0"] == 1e-3
    assert kept[-1] == (folders.results, "a-s1")
    result = results_of(folders)["a-s0"]
    assert result["reference"] == "reference-s0"
    assert result["made"]["wall_seconds"] > 0


def test_a_finished_suite_runs_nothing(make, started):
    assert make().run() == 0
    started.clear()
    again = make()
    assert again.run() == 0
    assert started == []
    assert "4 cells, 4 done" in again.said[0]


def test_a_changed_definition_runs_again(make, cells, folders, started):
    make().run()
    result = results_of(folders)["a-s1"]
    results.Store(folders.results).add(result | {"definition": "other"})
    assert [cell.name for cell in to_run(cells, finished(cells, folders), folders)] == ["a-s1"]


def test_a_reference_without_weights_is_trained_again(make, cells, folders):
    make().run()
    forget(folders, "a-s1")
    shutil.rmtree(folders.of(cells[1]))
    again = to_run(cells, finished(cells, folders), folders)
    assert [cell.name for cell in again] == ["reference-s0", "a-s1"]


def test_a_reference_without_its_embeddings_is_seen_to_again(make, cells, folders):
    make().run()
    forget(folders, "a-s1")
    assert (folders.cache_of(cells[1]) / "cache.json").exists()
    shutil.rmtree(folders.cache_of(cells[1]))
    again = to_run(cells, finished(cells, folders), folders)
    assert [cell.name for cell in again] == ["reference-s0", "a-s1"]


def test_a_failure_stops_only_what_stands_on_it(make, started):
    failing = make({"reference-s0": "fail"})
    assert failing.run() == 1
    assert [name for name, _ in started] == ["tune_a_0.001-s100", "reference-s0"]
    assert "exit code 7" in failing.failed["reference-s0"]
    started.clear()
    assert make({"a-s0": "fail"}).run() == 1
    assert [name for name, _ in started] == ["reference-s0", "a-s0", "a-s1"]


def test_a_cell_that_takes_too_long_is_stopped(make, folders, cells):
    slow = make(
        {"a-s0": "hang"}, cell_minutes=8 / 60
    )  # the others take less, on a busy machine too
    assert slow.run() == 1
    assert "took more than" in slow.failed["a-s0"]
    assert cells[2].name not in results_of(folders)
    assert cells[3].name in results_of(folders)


def test_two_at_a_time_get_their_own_slots(make, started):
    both = make(jobs=2)
    assert both.run() == 0
    assert {name for name, _ in started[:2]} == {"tune_a_0.001-s100", "reference-s0"}


def interrupt_when_there(path):
    def wait():
        deadline = time.monotonic() + 300
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def test_an_interrupt_stops_the_cells_and_says_how_to_continue(make, folders, cells):
    stopped = make({"a-s0": "hang"})
    interrupt_when_there(folders.of(cells[2]) / "hanging")
    assert stopped.run() == 130
    assert not stopped.running
    assert "same command continues" in stopped.said[-1]
    assert make().run() == 0, "and it does"


def test_a_cell_that_ends_while_it_is_stopped_is_kept(make, folders, cells):
    stopped = make({"a-s0": "late"})
    interrupt_when_there(folders.of(cells[2]) / "hanging")
    assert stopped.run() == 130
    assert cells[2].name in results_of(folders)
    assert [cell.name for cell in stopped.waiting] == ["a-s1"]


def test_no_cell_starts_after_the_last_start(make, started):
    late = make(last_start=-1.0)
    assert late.run() == 1
    assert started == []


def test_the_command_is_the_shipped_one(cells, folders):
    words = train_command(cells[-1], 3e-3, folders)
    assert words[:3] == ["python", "-m", "jest_tf.train"]
    assert words[3] == ("--config=configs/emoji.py:policy=joint,steps=20,validate_every=10,seed=1")
    assert f"--config.reference.workdir={folders.of(cells[1])}" in words
    assert f"--config.reference.cache={folders.cache_of(cells[1])}" in words
    assert "--config.optimizer.learning_rate=0.003" in words
    assert words[-1] == f"--workdir={folders.of(cells[-1])}"


def test_a_tuned_run_names_the_base_and_what_it_scored(folders):
    cell = make_cells(tuning.ROWS, [tuning.RECIPE])[-1]
    words = train_command(cell, 3e-4, folders)
    base = folders.workdir / "base"
    assert words[3].startswith("--config=examples/emoji/tune.py:policy=joint,")
    assert f"--config.model.init={base}" in words
    assert f"--config.reference.cache={base}/pool_embeddings" in words
    photos = make_cells(tuning.ROWS, ["photos_joint"])[-1]
    assert f",data={folders.data_dir}/photos," in train_command(photos, 3e-4, folders)[3]
    assert f"--data={folders.data_dir}/photos/pool" in runner.cache_command(
        photos.reference, folders, photos.config.data.train
    )


def test_the_base_is_made_once_by_shipped_commands(folders):
    def modules(used):
        found = base_commands(used, folders.data_dir, folders.placeholders)
        return [words[2].removeprefix("jest_tf.") for words in found]

    assert modules(set()) == []
    assert modules({grid.BASE}) == ["import_weights"]
    assert modules({grid.BEST_PAIRS}) == ["import_weights", "cache_reference", "audit", "curate"]
    (folders.workdir / "base").mkdir(parents=True)
    (folders.workdir / "base" / "model.json").touch()
    assert modules({grid.BASE_CACHE}) == ["cache_reference"]
    assert modules({grid.PHOTOS}) == ["prepare"] * 3


def test_a_reference_whose_best_pairs_are_trained_on_keeps_them(folders, pool_truth):
    cells = make_cells(suites.RESULTS_ROWS, [suites.ANEW_CLIPSCORE, suites.ANEW_JOINT])
    reference, clipscore = cells[0], next(cell for cell in cells if cell.reads_best)
    commands = Runner(cells, folders, pool_truth).commands(reference, 1e-3)
    made = [words[2].removeprefix("jest_tf.") for words in commands]
    assert made == ["train", "cache_reference", "audit", "curate"]
    assert "--data=tfds:emoji_captions/pool:train" in commands[1]
    best = str(folders.of(reference) / "best_pairs")
    assert commands[-1][-1] == f"--out={best}"
    assert f"--config.data.train={best}" in train_command(clipscore, 1e-3, folders)
    photos = make_cells(tuning.ROWS, [row.name for row in tuning.PHOTO_ROWS])
    commands = Runner(photos, folders, pool_truth).commands(photos[0], 1e-3)
    ours = f"--data={folders.data_dir}/photos/pool"
    assert len(commands) == 4 and all(ours in words for words in commands[1:])


def test_only_a_reference_that_others_read_stores_its_embeddings(cells, folders, pool_truth):
    shipped = Runner(cells, folders, pool_truth).commands
    train, cache = shipped(cells[1], 1e-3)
    assert train == train_command(cells[1], 1e-3, folders)
    assert cache[:3] == ["python", "-m", "jest_tf.cache_reference"]
    assert cache[-1] == f"--out={folders.cache_of(cells[1])}"
    assert len(shipped(cells[-1], 1e-3)) == 1
    live = make_cells([dataclasses.replace(row, caches=False) for row in ROWS], ["a"])
    assert len(Runner(live, folders, pool_truth).commands(live[1], 1e-3)) == 1
    assert "reference.cache" not in " ".join(train_command(live[-1], 1e-3, folders))
    assert live[-1].definition != cells[-1].definition


def test_the_last_step_is_read_from_the_end_of_a_log(tmp_path):
    assert runner.last_step(tmp_path) == 0
    lines = [json.dumps({"step": step, "x": "y" * 50}) for step in range(0, 4000, 20)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert runner.last_step(tmp_path) == 3980


def test_estimates_learn_from_what_is_finished(cells):
    work = {cell.name: cell.work for cell in cells}
    reference, learner = cells[1], cells[2]
    assert reference.work == 20 * 3 * 128
    assert learner.work == 20 * (640 + 3 * 128), "the reference is cached"
    estimate = Estimate([], work)
    first = FIXED_SECONDS + reference.work / FIRST_RATE
    assert estimate.seconds([reference]) == pytest.approx(first)
    made = {"sittings": 1, "wall_seconds": FIXED_SECONDS + 100}
    estimate.add({"cell": reference.name, "row": "reference", "made": made})
    assert estimate.seconds([reference]) == FIXED_SECONDS + 100
    ratio = learner.work / reference.work
    assert estimate.seconds([learner]) == pytest.approx(FIXED_SECONDS + 100 * ratio)
