"""Evaluating a run and its export: the same numbers, once per checkpoint, in files."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
from small_run import TOTAL_STEPS, small_run

from jest_tf import evaluate, export
from jest_tf.errors import UserError
from jest_tf.evaluate import BestExports
from jest_tf.evaluation import evaluators
from jest_tf.export import export_run
from jest_tf.results import read_results
from jest_tf.serving.encoders import read_info
from jest_tf.training.run.restore import load_workdir


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def workdir(finished_run):
    """The run, without results."""
    shutil.rmtree(finished_run / "evaluations", ignore_errors=True)
    return finished_run


@pytest.fixture
def flags():
    """Sets flags of the entry point and puts the defaults back."""
    evaluate.FLAGS.mark_as_parsed()
    saved = {name: evaluate.FLAGS[name].value for name in evaluate.FLAGS}

    def set_and_run(**values):
        for name, value in saved.items():
            evaluate.FLAGS[name].value = values.get(name, value)
        evaluate.main(["evaluate"])

    yield set_and_run
    for name, value in saved.items():
        evaluate.FLAGS[name].value = value


def test_a_run_and_its_export_give_the_same_numbers(workdir, flags, tmp_path):
    flags(workdir=str(workdir))
    results = {r["name"]: r for r in read_results(workdir / "evaluations")}
    assert set(results) == {"retrieval", "zero_shot"}
    assert results["retrieval"]["step"] == TOTAL_STEPS
    assert results["retrieval"]["checkpoint"] == f"{workdir} at step {TOTAL_STEPS}"
    assert "resized to 12 px" in results["retrieval"]["preprocessing"]["image"]

    export_run(load_workdir(str(workdir)), str(workdir), str(tmp_path / "export"))
    flags(export=str(tmp_path / "export"), out=str(tmp_path / "of_export"))
    for result in read_results(tmp_path / "of_export"):
        assert result["metrics"] == results[result["name"]]["metrics"]
        assert result["fingerprint"] == read_info(str(tmp_path / "export"))["fingerprint"]


def test_one_step_and_one_evaluation(workdir, flags):
    flags(workdir=str(workdir), step=10, only=["zero_shot"])
    assert [p.name for p in (workdir / "evaluations").iterdir()] == ["zero_shot-00000010.json"]


def test_follow_measures_every_checkpoint_once_and_keeps_the_best(workdir, flags, monkeypatch):
    exported = []
    monkeypatch.setattr(export, "export_run", lambda run, workdir, out: exported.append(run.step))
    follow = {"workdir": str(workdir), "follow": True, "timeout_minutes": 0.001}
    flags(**follow)
    folder = workdir / "evaluations"
    assert {(r["name"], r["step"]) for r in read_results(folder)} == {
        (name, step) for name in ("retrieval", "zero_shot") for step in (10, TOTAL_STEPS)
    }
    stamps = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    for _ in range(2):  # what was measured before is offered too, and what is kept only once
        flags(**follow, best="zero_shot:mean_per_class", n_best=2)
        assert exported == [10, TOTAL_STEPS]
    kept = json.loads((workdir / "best" / "best.json").read_text())["exports"]
    scores = {r["step"]: r["metrics"]["mean_per_class"] for r in read_results(folder)
              if r["name"] == "zero_shot"}  # fmt: skip
    assert {entry["step"]: entry["score"] for entry in kept} == scores
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == stamps


def test_following_measures_again_what_was_measured_on_other_data(workdir, flags, tmp_path):
    out = tmp_path / "results"
    flags(workdir=str(workdir), only=["retrieval"], out=str(out))
    data = json.loads((workdir / "config.json").read_text())["evals"]["retrieval"]["data"]
    evals = tmp_path / "evals.json"
    evals.write_text(
        json.dumps({"retrieval": {"kind": "retrieval", "data": f"{data}#all_but=0.5"}})
    )
    flags(workdir=str(workdir), evals=str(evals), follow=True, out=str(out))
    (result,) = read_results(out, TOTAL_STEPS)
    assert result["dataset"] == f"{data}#all_but=0.5"
    assert result["data"]["evaluated"]["n_examples"] < 12


def test_another_evaluation_does_not_take_the_name_of_the_runs_own(workdir, flags, tmp_path):
    own = json.loads((workdir / "config.json").read_text())["evals"]["retrieval"]
    evals = tmp_path / "evals.json"
    evals.write_text(json.dumps({"retrieval": {"kind": "zero_shot", "data": own["data"]}}))
    for how in ({}, {"follow": True}):
        with pytest.raises(UserError, match="retrieval is the name of another evaluation"):
            flags(workdir=str(workdir), evals=str(evals), **how)
    assert not (workdir / "evaluations").exists()
    evals.write_text(json.dumps({"retrieval": own | {"every_steps": 7}}))  # the same numbers
    flags(workdir=str(workdir), evals=str(evals))
    assert (workdir / "evaluations").exists()


def test_a_file_of_no_evaluation_is_not_taken_for_the_evaluations_of_the_run(
    workdir, flags, tmp_path
):
    (tmp_path / "evals.json").write_text("{}")
    with pytest.raises(UserError, match="evals.json: expected a JSON file .* it holds {}"):
        flags(workdir=str(workdir), evals=str(tmp_path / "evals.json"))


def test_clip_benchmark_can_build_its_table(workdir, flags, tmp_path):
    flags(workdir=str(workdir))
    # What `clip_benchmark build` does with each file (clip_benchmark 1.6.2, cli.py, main_build).
    rows = []
    for path in sorted((workdir / "evaluations").glob("*.json")):
        data = json.loads(path.read_text())
        row = {**data["metrics"], **data}
        del row["metrics"]
        rows.append(row | {"model_fullname": row["model"] + " " + row["pretrained"]})
    with open(tmp_path / "benchmark.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, sorted(set().union(*rows)))
        writer.writeheader()
        writer.writerows(rows)
    retrieval, zero_shot = rows
    assert retrieval["task"] == "zeroshot_retrieval"
    assert retrieval["text_retrieval_recall@5"] == retrieval["image_to_text/recall@5"]
    assert retrieval["image_retrieval_recall@1"] == retrieval["text_to_image/recall@1"]
    assert zero_shot["task"] == "zeroshot_classification" and zero_shot["acc1"] == zero_shot["top1"]
    assert zero_shot["mean_per_class_recall"] == zero_shot["mean_per_class"]


def test_the_projector_shows_the_images_of_an_evaluation(workdir, flags, capsys):
    flags(workdir=str(workdir), projector="zero_shot")
    folder = workdir / "projector"
    z = np.loadtxt(folder / "embeddings.tsv")
    assert len(z) == 12
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1.0, rtol=1e-4)
    title, *rows = (folder / "metadata.tsv").read_text().splitlines()
    assert title == "captions\tlabel"
    assert rows[:2] == ["red square\tred", "green square\tgreen"]
    assert f"--logdir {folder}" in capsys.readouterr().out
    assert not (workdir / "evaluations").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "either --workdir .* or --export"),
        ({"export": "e", "follow": True}, "give --workdir"),
        ({"workdir": "w", "best": "a:b"}, "goes with --follow"),
        ({"workdir": "w", "follow": True, "projector": "a"}, "without --follow"),
        ({"workdir": "w", "follow": True, "step": 3}, "--step chooses one checkpoint"),
        ({"export": "e", "step": 3}, "--step chooses one checkpoint"),
        ({"workdir": "w", "follow": True, "timeout_minutes": 0.0}, "did not appear"),
        ({"workdir": "w", "evals": "none.json"}, "expected a JSON file"),
    ],
)
def test_wrong_flags_are_refused(values, message, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        flags(**values)


def test_unknown_names_are_refused(workdir, flags):
    with pytest.raises(UserError, match="--only asks for imagenet"):
        flags(workdir=str(workdir), only=["imagenet"])
    with pytest.raises(UserError, match="there is no evaluation 'coco'"):
        flags(workdir=str(workdir), follow=True, best="coco:recall")


def test_a_file_in_the_place_of_the_results_is_told_before_the_work(
    workdir, flags, tmp_path, monkeypatch
):
    monkeypatch.setattr(evaluators, "run_evaluation", None)
    (tmp_path / "taken").write_text("")
    with pytest.raises(FileExistsError):
        flags(workdir=str(workdir), out=str(tmp_path / "taken"))


def test_best_exports_keeps_n_and_drops_the_rest(tmp_path):
    best = BestExports(tmp_path / "best", "r:recall", 2, {"r": {}})
    scores = {1: 0.1, 2: 0.5, 3: 0.3, 4: 0.2, 5: 0.5}
    kept = [
        best.offer(step, {"r": {"metrics": {"recall": score}}}, os.mkdir)
        for step, score in scores.items()
    ]
    assert kept == [True, True, True, False, True]
    assert sorted(p.name for p in (tmp_path / "best").iterdir()) == [
        "best.json", "step-00000002", "step-00000005",
    ]  # fmt: skip
    with pytest.raises(UserError, match="no metric"):
        best.offer(6, {"r": {"metrics": {"rank": 1}}}, lambda out: None)
    with pytest.raises(UserError, match="holds the best exports by r:recall"):
        BestExports(tmp_path / "best", "r:rank", 2, {"r": {}}).offer(
            6, {"r": {"metrics": {"rank": 1}}}, lambda out: None
        )
    fewer = BestExports(tmp_path / "ranks", "r:median_rank", 1, {"r": {}})
    for step, rank in {1: 9.0, 2: 3.0, 3: 5.0}.items():
        fewer.offer(step, {"r": {"metrics": {"median_rank": rank}}}, os.mkdir)
    assert (tmp_path / "ranks" / "step-00000002").exists()
