"""A cell's result from the files of a run whose numbers are known."""

import gzip
import json

import pytest
from evidence_fake_run import write_evaluation, write_run

from benchmarks.evidence import results
from benchmarks.evidence.grid import Row, make_cells
from jest_tf.errors import UserError
from jest_tf.training.assemble import model_size, resolution_schedule, selection_spec
from jest_tf.training.cost import CostModel

ROW = Row("a", "a", "ablation", "policy=joint,criterion=hard_learner,steps=40,validate_every=20")


@pytest.fixture
def cell():
    return make_cells((ROW,), ["a"])[0]


@pytest.fixture
def run(cell, tmp_path):
    write_run(cell.config.to_dict(), tmp_path / "run", retrieval=0.4)
    return tmp_path / "run"


def test_curve_by_hand(cell, run, pool_truth):
    curve = results.collect(cell, run, pool_truth, {"jobs": 1})["curve"]
    assert curve["step"] == [0, 20, 40]
    assert curve["loaded"] == curve["scored"] == [0, 12_800, 25_600]
    assert curve["trained"] == [0, 2560, 5120]
    assert curve["flops"] == curve["flops_cached"] == [0, 1.2e13, 2.4e13]
    assert curve["seconds"] == [0, 40, 80], "30 s of compiling are left out"
    # 300 images and 200 texts: chance is the mean of 1/300, 5/300, 1/200, 5/200.
    assert curve["retrieval"] == pytest.approx([(6 / 300 + 6 / 200) / 4, 0.2, 0.4], abs=1e-6)
    assert curve["zero_shot"] == pytest.approx([1 / 64, 0.2, 0.4])


def test_cost_between_log_lines_is_interpolated(cell, run, pool_truth):
    for kind in ("retrieval", "zero_shot"):
        write_evaluation(run, kind, "validation", 10, 0.1)
    curve = results.collect(cell, run, pool_truth, {})["curve"]
    assert curve["step"] == [0, 10, 20, 40]
    assert curve["flops_cached"][1] == pytest.approx(0.6e13)
    assert curve["seconds"][1] == 20


def test_the_reference_costs_the_same_cached_or_not(tmp_path, pool_truth):
    """`flops` has its forward passes, as the ledger prices them; `flops_cached` has not."""
    reference = Row("r", "r", "headline", "reference,steps=40,validate_every=20")
    row = Row("a", "a", "ablation", "policy=joint,steps=40,validate_every=20", reference="r")
    _, cell = make_cells((reference, row), ["a"])
    write_run(cell.config.to_dict(), tmp_path / "run")
    curve = results.collect(cell, tmp_path / "run", pool_truth, {})["curve"]
    config = cell.config
    size = model_size(config, 4096)
    priced = CostModel(size, selection_spec(config), config.data.image_size, reference=size)
    schedule = resolution_schedule(config, size, size, n_replicas=1)
    per_step = priced.step(schedule.plan(0)).flops["score_reference"]
    assert curve["flops_cached"] == [0, 1.2e13, 2.4e13]
    assert curve["flops"] == pytest.approx([0, 1.2e13 + 20 * per_step, 2.4e13 + 40 * per_step])


def test_result_tells_where_it_comes_from_and_survives_the_disk(cell, run, pool_truth, tmp_path):
    made = {"command": "python -m …", "wall_seconds": 12.3, "jobs": 1, "load_average": 0.5}
    result = results.collect(cell, run, pool_truth, made)
    assert result["made"]["git"]["revision"] == "0123456789abcdef"
    assert result["made"]["started_utc"].startswith("2026-01-02")
    assert (result["cell"], result["definition"]) == ("a-s0", cell.definition)
    assert result["test"]["retrieval"] == pytest.approx(0.4)
    store = results.Store(tmp_path / "runs" / "a.jsonl.gz")
    assert store.read() == {}
    store.add(result)
    assert store.read() == {"a-s0": json.loads(json.dumps(result))}
    assert store.path.stat().st_size < 10_000


def test_a_store_keeps_one_result_of_a_run_and_the_same_bytes_whatever_the_order(tmp_path):
    stores = [results.Store(tmp_path / f"{name}.jsonl.gz") for name in "ab"]
    lines = [{"format": results.FORMAT, "cell": f"x-s{seed}", "score": seed} for seed in range(3)]
    for store, order in zip(stores, ((0, 1, 2), (2, 0, 1)), strict=True):
        for seed in order:
            store.add(lines[seed])
        store.add(lines[1] | {"score": 7})
    assert stores[0].path.read_bytes() == stores[1].path.read_bytes()
    assert [result["score"] for result in stores[0].read().values()] == [0, 7, 2]


def test_a_store_with_a_torn_end_is_refused(tmp_path):
    store = results.Store(tmp_path / "a.jsonl.gz")
    store.add({"format": results.FORMAT, "cell": "x-s0"})
    store.path.write_bytes(store.path.read_bytes()[:-9])
    with pytest.raises(UserError, match="does not hold results of runs"):
        store.read()


def test_picks_are_described_by_window(cell, run, pool_truth):
    found = results.collect(cell, run, pool_truth, {})["picks"]
    assert [w["step"] for w in found["windows"]] == [20, 40]
    assert found["all"]["n"] == 40 * 128
    assert found["after_warmup"]["n"] == 30 * 128, "10 steps of warm-up"


def test_the_test_part_is_evaluated_once(cell, run, pool_truth):
    write_evaluation(run, "retrieval", "test", 20, 0.1)
    with pytest.raises(UserError, match=r"one retrieval evaluation of the test part.*\[20, 40\]"):
        results.collect(cell, run, pool_truth, {})


def test_a_tuned_run_starts_at_its_base(cell, run, pool_truth):
    for part in ("validation", "test"):
        for kind in ("retrieval", "zero_shot"):
            write_evaluation(run, kind, part, 0, 0.3)
    result = results.collect(cell, run, pool_truth, {})
    assert result["curve"]["step"] == [0, 20, 40]
    assert result["curve"]["retrieval"] == result["curve"]["zero_shot"] == [0.3, 0.2, 0.4]
    assert result["test"]["base"] == {"retrieval": 0.3, "zero_shot": 0.3}
    assert result["test"]["retrieval"] == 0.4


def test_no_validation_no_curve(cell, run, pool_truth):
    for path in (run / "evaluations").glob("*_validation-*"):
        path.unlink()
    with pytest.raises(UserError, match="no evaluation on the validation part"):
        results.collect(cell, run, pool_truth, {})


def test_other_files_are_refused(tmp_path):
    store = results.Store(tmp_path / "x.jsonl.gz")
    store.path.write_text("{")
    with pytest.raises(UserError, match="does not hold results of runs"):
        store.read()
    store.path.write_bytes(gzip.compress(b'{"format": 99, "cell": "a"}'))
    with pytest.raises(UserError, match="format 99"):
        store.read()
