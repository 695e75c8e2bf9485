"""Classes and known noise that people bring: from prepare to evaluations and reports."""

import json

import numpy as np
import pytest
from odd_files import pictures

from jest_tf.data import prepare
from jest_tf.data.evaluation_data import EvaluationData
from jest_tf.data.manifest import Manifest
from jest_tf.data.records import shard_records
from jest_tf.data.sources import open_source
from jest_tf.errors import UserError
from jest_tf.evaluation.evaluators import require_data
from jest_tf.monitoring.labels import keep_about, run_labels


def prepared(tmp_path, rows: list[dict], name: str = "out") -> str:
    folder = pictures(tmp_path / "photos", len(rows))
    lines = [{"file_name": f"{n}.jpg", "text": f"no. {n}", **row} for n, row in enumerate(rows)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    settings = prepare.Settings(kind="folder", paths=(str(folder),), out=str(tmp_path / name))
    prepare.prepare(settings)
    return settings.out


def by_key(manifest: Manifest) -> dict[str, int]:
    return {r.key.decode(): r.id for r in shard_records(manifest, 0)}


def test_a_noise_column_reaches_the_report_and_never_the_training(tmp_path):
    kinds = ["clean", "clean", "swapped", None]
    out = prepared(tmp_path, [{"noise": kind} if kind else {} for kind in kinds])
    manifest = open_source(out)
    keep_about(manifest.about, tmp_path, manifest)
    labels = run_labels(tmp_path)
    ids = [by_key(manifest)[f"{n}.jpg"] for n in range(4)]
    shares = labels.shares(np.array(ids))
    assert shares == {"clean": 0.5, "swapped": 0.25, "unlabelled": 0.25}
    assert labels.noisy == {"swapped"} and labels.noisy_share(shares) == 0.25
    plain = open_source(prepared(tmp_path / "again", [{}] * 4))
    assert plain.about.labels == ()


def test_a_labels_file_beside_the_manifest_names_records_by_key_or_id(tmp_path):
    out = prepared(tmp_path, [{}] * 4)
    ids = by_key(open_source(out))
    rows = [
        {"key": "0.jpg", "label": "clean"},
        {"key": "2.jpg", "label": "blurred"},
        {"id": ids["3.jpg"], "label": "odd, but fine", "noisy": False},
    ]
    (tmp_path / "out" / "labels.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    manifest = open_source(out)
    keep_about(manifest.about, tmp_path, manifest)
    labels = run_labels(tmp_path)
    shares = labels.shares(np.array([ids[f"{n}.jpg"] for n in range(4)]))
    assert shares == {"clean": 0.25, "blurred": 0.25, "odd, but fine": 0.25, "unlabelled": 0.25}
    assert labels.noisy == {"blurred"}


def test_classes_are_read_and_their_absence_is_told_before_a_model_is_built(tmp_path):
    out = prepared(tmp_path, [{"label": kind} for kind in ("dog", "cat", "dog", "ant")])
    data = EvaluationData(open_source(out), 8)
    assert data.label_texts == ("ant", "cat", "dog")
    (batch,) = data.batches(8)
    named = {t[0]: data.label_texts[n] for t, n in zip(batch.captions, batch.labels, strict=True)}
    assert named == {"no. 0": "dog", "no. 1": "cat", "no. 2": "dog", "no. 3": "ant"}
    require_data("classes", {"kind": "zero_shot", "data": out})
    bare = prepared(tmp_path / "bare", [{}] * 4)
    for spec in (
        {"kind": "zero_shot", "data": bare},
        {"kind": "few_shot", "data": out, "train": bare, "validation": out},
    ):
        with pytest.raises(UserError, match=r"evals\.mine: .* needs the class of every record"):
            require_data("mine", spec)
    require_data("pairs", {"kind": "retrieval", "data": bare})


def test_a_probe_is_not_scored_on_what_it_learned_or_was_chosen_on(tmp_path):
    parts = {str(n): [{"label": kind} for kind in ("dog", "cat")] * n for n in (1, 2, 3)}
    test, train, validation = (prepared(tmp_path / name, rows) for name, rows in parts.items())
    spec = {"kind": "few_shot", "data": test, "train": train, "validation": validation}
    require_data("mine", spec)
    for same in ({"train": test}, {"validation": test}, {"validation": train}):
        with pytest.raises(UserError, match=r"evals\.mine: .* are the same data"):
            require_data("mine", spec | same)


def test_a_probe_is_not_scored_where_the_same_number_is_another_class(tmp_path):
    """`prepare` numbers the classes that a set has: one class more shifts those after it."""
    parts = {name: [{"label": kind} for kind in (name, "cat")] for name in ("dog", "ant", "bee")}
    test, train, validation = (prepared(tmp_path / name, rows) for name, rows in parts.items())
    spec = {"kind": "few_shot", "data": test, "train": train, "validation": validation}
    with pytest.raises(UserError, match=r"evals\.mine: .* label 0 is 'ant' in one and 'cat' in"):
        require_data("mine", spec)
