"""The page on tuning, from runs that the stand-in wrote: gains, verdicts and goals by hand."""

import pytest
from evidence_fake_run import write_evaluation, write_run

from benchmarks.evidence import results, tuning, tuning_page
from benchmarks.evidence.analysis import by_row
from benchmarks.evidence.grid import make_cells
from benchmarks.evidence.page import Shown

SCORES = {
    tuning.UNIFORM: (0.20, 0.22), tuning.UNIFORM_FLOPS: (0.24, 0.25),
    tuning.CLIPSCORE: (0.30, 0.36), tuning.TOP_K: (0.33, 0.34), tuning.JOINT: (0.34, 0.35),
}  # fmt: skip


@pytest.fixture(scope="module")
def evidence(tmp_path_factory, pool_truth):
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for cell in make_cells(tuning.ROWS, [row.name for row in tuning.TUNED]):
        if cell.row.name not in SCORES or cell.seed > 1:
            continue
        write_run(cell.config.to_dict(), folder / cell.name, SCORES[cell.row.name][cell.seed])
        for part in ("validation", "test"):
            for kind in ("retrieval", "zero_shot"):
                write_evaluation(folder / cell.name, kind, part, 0, 0.3)
        made = {"command": "c", "wall_seconds": 5.0, "jobs": 1, "load_average": 0.1}
        found[cell.name] = results.collect(cell, folder / cell.name, pool_truth, made)
    rows = by_row(tuning.ROWS, found)
    return tuning_page.Evidence(rows, {}, {}, [], pool_truth.pool())


@pytest.fixture(autouse=True)
def _recipe(monkeypatch):
    monkeypatch.setattr(tuning, "RECIPE", tuning.JOINT)


def test_goals_are_counted_seed_by_seed(evidence):
    found = {one["figure"]: one for one in tuning_page.results_json(evidence)}
    assert found["tuning_gain_over_uniform_every_seed"]["value"] == 1
    assert found["tuning_gain_over_uniform_every_seed"]["note"].endswith("+10.0, +10.0")
    assert found["tuning_gain_over_base_every_seed"]["value"] == 1
    clipscore = found["ahead_of_clipscore_every_seed"]
    assert clipscore["value"] == 0 and clipscore["reached"] is False, "behind at seed 1"
    assert clipscore["seeds"] == 2 and clipscore["revision"] == "012345678"
    assert found["steps_speedup"]["value"] is None
    assert found["joint_minus_top_k_sigmas_where_bq_above_1"]["value"] is None
    # The stand-in selects rows 1 to 187 or so of the pool.
    assert 0 < found["noisy_share_tuning"]["value"] < 1


def test_the_page_has_gains_verdicts_and_the_strongest_baseline(evidence):
    shown = Shown("COMMAND", evidence.tuned, "results", "runs.jsonl.gz", [], [], evidence.pool)
    text = tuning_page.page(evidence, shown)
    assert (
        "tuning on everything | the recipe | +13.5 [+7.1, +19.9] | +10.0 [+10.0, +10.0] |" in text
    )
    assert (
        "| Tuning on everything makes the base worse. | **undecided** | +9.0 [-3.7, +21.7]" in text
    )
    equal = "| Greedy joint selection and independent top-k are equal here. | **refuted** | +1.0"
    assert equal in text
    lines = tuning_page.short_answer(evidence)
    assert "strongest baseline is independent top-k" in lines[1]
    assert "No tuning at all is a baseline too: the recipe minus the base is +4.5" in lines[2]
