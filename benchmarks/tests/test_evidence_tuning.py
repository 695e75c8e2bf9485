"""The page on tuning, from runs that the stand-in wrote: gains, verdicts and goals by hand."""

import pytest
from evidence_fake_run import write_evaluation, write_run

from benchmarks.evidence import results, suites, tuning, tuning_page, variants_page
from benchmarks.evidence.analysis import by_row
from benchmarks.evidence.grid import make_cells
from benchmarks.evidence.page import Shown

SCORES = {
    tuning.UNIFORM_FLOPS: (0.24, 0.25), tuning.CLIPSCORE: (0.30, 0.36),
    tuning.JOINT_PREFILTERED: (0.33, 0.34), tuning.RECIPE: (0.34, 0.35),
    tuning.LONG_CLIPSCORE: (0.33, 0.34),
    tuning.on_first_base(tuning.JOINT_PREFILTERED): (0.33, 0.34),
    tuning.on_first_base(tuning.RECIPE): (0.31, 0.32),
    tuning.on_first_base(tuning.JOINT_ALL): (0.34, 0.35),
    tuning.on_first_base(tuning.HARD): (0.2, 0.33),
    "joint_clustered_256": (0.5, 0.6), "independent_top_k_clustered_256": (0.4, 0.6),
    suites.ANEW_CLIPSCORE: (0.1, 0.2),
    suites.ANEW_REFERENCE: (0.5, 0.5), suites.ANEW_UNIFORM: (0.3, 0.3),
    suites.ANEW_LONG: (0.3, 0.3), suites.ANEW_RECIPE: (0.6, 0.2), suites.ANEW_JOINT: (0.6, 0.2),
    tuning_page.PHOTOS_JOINT: (0.5, 0.6), tuning_page.PHOTOS_TOP_K: (0.2, 0.2),
}  # fmt: skip


@pytest.fixture(scope="module")
def evidence(tmp_path_factory, pool_truth):
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for cell in make_cells(suites.RESULTS_ROWS, list(SCORES)):
        if cell.row.name not in SCORES or cell.seed > 1:
            continue
        write_run(cell.config.to_dict(), folder / cell.name, SCORES[cell.row.name][cell.seed])
        for part in ("validation", "test") if cell.config.model.init else ():
            for kind in ("retrieval", "zero_shot"):
                write_evaluation(folder / cell.name, kind, part, 0, 0.3)
        made = {"command": "c", "wall_seconds": 5.0, "jobs": 1, "load_average": 0.1}
        found[cell.name] = results.collect(cell, folder / cell.name, pool_truth, made)
    rows = by_row(suites.RESULTS_ROWS, found)
    return tuning_page.Evidence(rows, {}, [], pool_truth.pool())


def test_goals_are_counted_seed_by_seed(evidence):
    found = {one["figure"]: one for one in tuning_page.results_json(evidence)}
    assert found["tuning_gain_over_uniform_every_seed"]["value"] == 1
    assert found["tuning_gain_over_uniform_every_seed"]["note"].endswith(": +9.0, +9.0")
    assert found["tuning_gain_over_base_every_seed"]["value"] == 1
    clipscore = found["ahead_of_clipscore_every_seed"]
    assert clipscore["value"] == 0 and clipscore["reached"] is False, "behind at seed 1"
    assert clipscore["seeds"] == 1 and clipscore["revision"] == "012345678"
    # The long uniform runs have 30% at their end, the recipe half-way, where it gets there.
    assert found["steps_speedup"]["value"] == pytest.approx(2500 / 410, rel=1e-3)
    flops = found["flops_speedup"]
    assert flops["value"] == pytest.approx(2500 / 410, rel=1e-3) and flops["seeds"] == 2
    counted = found["flops_speedup_with_reference"]
    assert counted["value"] == pytest.approx(2500 / (800 + 410), rel=1e-3)
    assert (
        "1 of 2 seeds got there; to that of `new_uniform_flops`, 820 steps: 0.7" in counted["note"]
    )
    assert counted["reached"] is False
    mates = found["joint_minus_top_k_sigmas_where_bq_above_1"]
    # 0.3 and 0.4 on photographs, 0.1 and 0 with neighbours: over pairs of runs, not over settings.
    assert mates["value"] == pytest.approx(0.2 / (0.1 / 12) ** 0.5, rel=1e-3)
    assert "+20.0 ± 9.1 points, greedy, 4 pairs of runs" in mates["note"]
    # The stand-in selects rows 1 to 187 or so of the pool.
    assert 0 < found["noisy_share_tuning"]["value"] < 1


def test_the_page_has_gains_verdicts_and_the_strongest_baseline(evidence):
    shown = Shown("COMMAND", evidence.tuned, "results", "runs.jsonl.gz", [], [], evidence.pool)
    text = tuning_page.page(evidence, shown)
    assert "; instead of everything | the short recipe | - | +9.0 [+9.0, +9.0] |" in text
    claim = "| The short recipe beats offline CLIPScore at equal FLOPs. | **undecided** |"
    assert f"{claim} +0.5 [-31.3, +32.3]" in text
    beats = "| The recipe beats offline CLIPScore, best 30%, at equal FLOPs. | **confirmed** |"
    assert f"{beats} +1.0 [+1.0, +1.0] | 2 |" in text
    new = next(line for line in text.splitlines() if line.startswith("| joint, distilled"))
    assert " | 5.5x (1/1) | 5.5x; 0.9x | 60.0 |" in new
    lines = tuning_page.short_answer(evidence)
    assert "from 30.0% of retrieval by +4.5 [" in lines[0]
    assert "The recipe minus offline CLIPScore (the best 30%) at the same FLOPs is +1.0" in lines[2]
    weaker = "A weaker base (30.0%), on which the recipe was chosen, moved by +1.5 ["
    assert lines[3].startswith(weaker)
    assert "| The recipe makes the base better. | **undecided** | +4.5 [" in text
    start = "| joint, greedy, prefiltered, by the reference alone (2 seeds)"
    of_recipe = next(line for line in text.splitlines() if line.startswith(start))
    assert of_recipe.endswith("| 31.5 ± 0.5 |")


def test_the_page_says_what_is_not_measured_yet(evidence):
    nothing = evidence._replace(tuned={})
    shown = Shown("COMMAND", {}, "results", "runs.jsonl.gz", [], ["a run"], evidence.pool)
    text = tuning_page.page(nothing, shown)
    assert "1 declared runs are not finished" in text and "not chosen yet" in text
    assert tuning_page.short_answer(nothing) == ["Not measured yet."]


def test_variants_are_judged_beyond_two_standard_errors_of_their_difference(evidence):
    shown = Shown("COMMAND", evidence.tuned, "results", "runs.jsonl.gz", [], [], evidence.pool)
    rows = [line.split(" | ") for line in variants_page.page(shown).splitlines()]
    found = {row[0].strip("| "): row[3:6] for row in rows if len(row) == 8}
    assert found["the short recipe"] == ["33.5 ± 0.5", "-", "-"]
    assert found["joint, greedy, not prefiltered"] == ["34.5 ± 0.5", "+1.0 ± 0.0", "better"]
    assert found["joint, greedy, by the learner alone"] == ["26.5 ± 6.5", "-7.0 ± 6.0", "undecided"]
    near = next(row for row in rows if row[0] == "| neighbours")
    assert near[1:] == [
        "256", "2", "2", "30.0", "50.0 ± 10.0", "55.0 ± 5.0", "+5.0 ± 5.0", "undecided |",
    ]  # fmt: skip
