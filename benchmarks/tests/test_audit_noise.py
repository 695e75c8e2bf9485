"""The comparison of methods, against counts by hand."""

import json

import numpy as np
import pytest

from benchmarks import audit_noise, audit_seeds
from jest_tf.monitoring.labels import Labels


def test_scores_and_kinds_are_those_counted_by_hand():
    labels = Labels(
        {0: "clean", 1: "clean", 2: "shuffled", 3: "shuffled", 4: "blank"}, ["shuffled", "blank"]
    )
    flagged = np.array([True, False, True, False, True])
    (row,) = audit_noise.compare({"audit": flagged}, labels, np.arange(5))
    assert row["flagged"] == 3 and row["precision"] == row["recall"] == row["f1"] == 2 / 3
    assert (row["clean"], row["shuffled"], row["blank"]) == (0.5, 0.5, 1.0)
    assert row["precision, shuffled"] == row["precision, blank"] == 0.5


def test_the_lowest_are_taken():
    assert audit_noise.lowest(np.array([3.0, 1.0, 2.0, np.inf]), 2).tolist() == [
        False,
        True,
        True,
        False,
    ]


def test_references_of_several_seeds_are_told_by_mean_and_ratio(capsys):
    def run(audit, other):
        rows = zip(audit_seeds.METHODS, (audit, other, 0.5), strict=True)
        return [{"method": m, "precision": f, "recall": f, "f1": f} for m, f in rows]

    lines = audit_seeds.lines_of("emoji", [run(0.6, 0.5), run(0.8, 0.5)], "made up")
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == lines[0]
    ratio = next(line for line in lines if line["goal"])
    assert (ratio["over"], ratio["value"], ratio["repeats"]) == ("CLIPScore", 1.4, 2)
    assert ratio["per_seed"] == pytest.approx([1.2, 1.6]) and ratio["sd"] == 0.2828


def test_several_audits_are_told_by_their_mean():
    runs = [[{"method": "audit", "flagged": n, "f1": f1}] for n, f1 in ((2, 0.5), (4, 0.7))]
    (row,) = audit_noise.summary(runs)
    assert row["method"] == "audit" and row["flagged"] == 3 and row["f1"] == pytest.approx(0.6)
    assert row["sd of f1"] == pytest.approx(0.1 * 2**0.5)
