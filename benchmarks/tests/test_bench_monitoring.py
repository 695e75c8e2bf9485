"""The bench of watching and using: every figure comes out, at small sizes, with its parts."""

import pytest

from benchmarks import monitoring
from benchmarks.monitoring_run import make_run
from jest_tf.monitoring.run_history import load_run


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in (
        ("N_IMAGES", 300), ("N_QUERIES", 2), ("REPORT_STEPS", 40), ("REPORT_SAMPLES", 2),
        ("RETRIEVAL_IMAGES", 40), ("RETRIEVAL_DIM", 16),
    ):  # fmt: skip
        monkeypatch.setattr(monitoring, name, value)


def by_name(rows) -> dict[str, dict]:
    rows = {row["figure"]: row for row in rows}
    for row in rows.values():
        assert set(row) == {
            "figure", "value", "goal", "unit", "numerator", "denominator", "repeats", "context"
        }  # fmt: skip
        assert row["value"] == pytest.approx(row["numerator"] / row["denominator"])
    return rows


def test_a_query_finds_what_a_full_sort_finds():
    rows = by_name(monitoring.query_rows("mu"))
    assert rows["query_recall@10_mu"]["value"] == 1.0
    query = rows["text_query_mu"]
    assert 0 < query["value"] <= query["context"]["slowest_ms"]
    assert query["context"]["encode_ms"] > 0


def test_the_report_is_built_from_a_run_as_training_leaves_it(tmp_path):
    rows = by_name(monitoring.report_rows())
    assert rows["report_megabytes"]["value"] > 0.1 and rows["report_seconds"]["value"] > 0
    run = load_run(make_run(tmp_path / "run", n_steps=20, n_samples=2), n_sample_steps=4)
    assert run.summary["steps"] == 20 and list(run.samples) == [10, 20]
    assert len(run.series["train/loss"].value) == 20


def test_retrieval_is_measured_in_this_process_too():
    measured = monitoring.measure_retrieval()
    assert measured["seconds"] > 0 and measured["bytes"] >= 0
