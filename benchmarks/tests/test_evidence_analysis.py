"""Speed-ups, protocols, figures and verdicts against numbers worked out by hand."""

import copy
import math
import re

import pytest

from benchmarks.evidence import analysis, claims, page, plots, suites
from benchmarks.evidence.analysis import RowResults
from benchmarks.evidence.curves import Mean
from benchmarks.evidence.grid import RATE, Row
from benchmarks.evidence.questions import QUESTIONS, answers

POOL = {
    "n": 10, "shares": {"clean": 0.3, "shuffled": 0.4, "icon": 0.3}, "distinct": 10,
    "concepts": 5, "pair_seen": 0.1, "image_seen": 0.2,
}  # fmt: skip


def cell(row: str, seed: int, scores, *, steps=(0, 50, 100), per_step=1.0, broken=0.4, test=None):
    """A result with the given validation scores; each axis is a multiple of the steps."""
    picked = {
        "n": 1000, "shares": {"clean": 1 - broken, "shuffled": broken, "icon": 0.0},
        "distinct": 500, "concepts": 50, "pair_seen": 0.25, "image_seen": 0.5,
    }  # fmt: skip
    window = picked | {"distinct_so_far": 500, "recent_concepts": 50}
    flops = [1e12 * per_step * step for step in steps]
    is_uniform = row.startswith("uniform")
    return {
        "cell": f"{row}-s{seed}", "row": row, "seed": seed,
        "curve": {
            "step": list(steps), "loaded": [128 * (1 if is_uniform else 5) * s for s in steps],
            "flops": flops, "flops_cached": [0.6 * f for f in flops],
            "seconds": [2 * per_step * s for s in steps],
            "retrieval": list(scores), "zero_shot": list(scores),
        },
        "test": {"retrieval": scores[-1] if test is None else test, "zero_shot": scores[-1]},
        "picks": {"windows": [{"step": s, **window} for s in steps[1:]],
                  "after_warmup": picked, "all": picked},
        "config": {
            "selection": {"sub_batch": 128, "super_batch": 128 if is_uniform else 640},
            "total_steps": steps[-1], "optimizer": {"learning_rate": 1e-3},
            "resolution": {"score": {"resolution": "48/24"}}, "data": {"image_size": 64},
        },
        "selection": {
            "selection/joint_score": [1.0, 2.0],
            "selection/joint_score_independent_top_k": [1.5, 2.0],
            "selection/joint_score_uniform": [-1.0, -2.0],
            "selection/overlap_independent_top_k": [0.7, 0.9],
        },
        # Twice what 640 resizes from 64 to 48 px take in 100 steps: 2·3·48·64·(64 + 48) each.
        "cost": {"flops/score_learner": 2 * 640 * 100 * 2_064_384},
        "made": {
            "wall_seconds": 100.0, "cpu": "some CPU", "n_cpus": 2, "jobs": 1, "load_average": 1.0,
            "started_utc": "2026-01-02T03:04:05+00:00", "packages": {"tensorflow": "2.20.0"},
            "git": {"revision": "0123456789abcdef", "dirty": False},
        },
    }  # fmt: skip


def row_of(name: str, *cells) -> RowResults:
    declared = {row.name: row for row in suites.FULL_ROWS}
    return RowResults(declared[name], {c["seed"]: c for c in cells})


@pytest.fixture
def rows():
    """Uniform ends at .2 after 1,000 steps; joint passes .2 at 25 and at 50 of its 100 steps."""
    long = (0, 500, 1000)
    return {
        "curated": row_of("curated", cell("curated", 0, (0, 0.3, 0.3)),
                          cell("curated", 1, (0, 0.3, 0.35))),
        "uniform": row_of("uniform", cell("uniform", 0, (0, 0.1, 0.15), steps=long),
                          cell("uniform", 1, (0, 0.1, 0.25), steps=long)),
        "uniform_same_steps": row_of("uniform_same_steps",
                                     cell("uniform_same_steps", 0, (0, 0.04, 0.1)),
                                     cell("uniform_same_steps", 1, (0, 0.04, 0.2))),
        "independent_top_k": row_of("independent_top_k",
                                    cell("independent_top_k", 0, (0, 0.2, 0.3), per_step=4),
                                    cell("independent_top_k", 1, (0, 0.2, 0.4), per_step=4)),
        "joint": row_of("joint", cell("joint", 0, (0, 0.4, 0.5), per_step=4, broken=0.02),
                        cell("joint", 1, (0, 0.2, 0.5), per_step=4, broken=0.04)),
        "flexi": row_of("flexi", cell("flexi", 0, (0, 0.1, 0.15)),
                        cell("flexi", 1, (0, 0.2, 0.4))),
    }  # fmt: skip


def test_steps_to_the_baselines_final_score(rows):
    assert analysis.target_of(rows["uniform"], "retrieval") == pytest.approx(0.2)
    found = analysis.speedup(rows["joint"], rows["uniform"], "step", "retrieval")
    assert found.spent.mean == pytest.approx((25 + 50) / 2)
    # 1000 / 25 = 40 and 1000 / 50 = 20: mean 30, deviation sqrt(200), error sqrt(200 / 2) = 10.
    assert found.ratio == Mean(pytest.approx(30), pytest.approx(10), 2)
    assert (found.n_reached, found.n_seeds) == (2, 2)


def test_other_axes_of_a_speedup(rows):
    # A joint step costs 4 times the FLOPs and seconds, and loads 5 times the examples.
    for axis, times in (("flops", 4), ("seconds", 4), ("flops_cached", 4), ("loaded", 5)):
        found = analysis.speedup(rows["joint"], rows["uniform"], axis, "retrieval")
        assert found.ratio.mean == pytest.approx(30 / times), axis


def test_seeds_that_do_not_get_there_are_counted_apart(rows):
    found = analysis.speedup(rows["flexi"], rows["uniform"], "step", "retrieval")
    assert (found.n_reached, found.n_seeds) == (1, 2)
    assert found.ratio == Mean(pytest.approx(20), None, 1)


@pytest.mark.parametrize(
    ("axis", "budget", "expected", "ended"),
    [
        ("step", 100, (0.02 + 0.02) / 2, False),  # a tenth of the way
        ("flops", 400e12, 0.08, False),  # 400 of 1,000 steps: .8 of .1
        ("seconds", 800, 0.08, False),
        ("loaded", 64_000, 0.1, False),  # 500 steps
        ("loaded", 128_001_000, 0.2, True),
    ],
)
def test_four_protocols(rows, axis, budget, expected, ended):
    mean, has_ended = analysis.at_equal(rows["uniform"], axis, budget, "retrieval")
    assert mean.mean == pytest.approx(expected)
    assert has_ended == ended


def test_pairs_are_of_the_same_seed():
    assert analysis.paired({0: 0.5, 1: 0.7, 2: 0.1}, {0: 0.4, 1: 0.4, 5: 9.0}) == Mean(
        pytest.approx(0.2), pytest.approx(math.sqrt(0.02 / 2)), 2
    )
    assert analysis.paired({0: 1.0}, {1: 1.0}) is None


def test_truth_of_a_row(rows):
    found = analysis.truth_of(rows["joint"], POOL)
    assert found["broken"].mean == pytest.approx(0.03)
    # Pool 40% broken, a fifth is picked: 1 - .2 * .03 / .4 and (.4 - .2 * .03) / .8.
    assert found["broken_rejected"].mean == pytest.approx(0.985)
    assert found["rejected_precision"].mean == pytest.approx(0.4925)
    assert found["shuffled_rejected"].mean == pytest.approx(0.985), "all that is broken here"
    assert "truncated_rejected" not in found, "this pool has none"
    assert "broken_rejected" not in analysis.truth_of(rows["uniform"], POOL), "nothing is rejected"
    without = {s: c | {"picks": None} for s, c in rows["curated"].by_seed.items()}
    assert analysis.truth_of(rows["curated"]._replace(by_seed=without), POOL) is None


def test_figures(rows):
    found = {figure.name: figure for figure in claims.figures(rows, POOL)}
    steps = found["steps_speedup"]
    assert (steps.value, steps.reached) == (pytest.approx(30), True)
    flops = found["flops_speedup"]
    assert flops.value == pytest.approx(20), "both rows without the reference's forward passes"
    assert not flops.reached, "one seed of two did not get there"
    over_uniform = found["score_gain against uniform"]
    assert (over_uniform.value, over_uniform.reached) == (pytest.approx(0.35), True)
    over_top_k = found["score_gain against independent top-k"]  # .2 and .1: .15 ± .05
    assert (over_top_k.value, over_top_k.error) == (pytest.approx(0.15), pytest.approx(0.05))
    assert over_top_k.reached
    assert found["score_gain against independent top-k, greedy"].value is None
    assert found["noisy_share"].reached
    assert found["noisy_share, learner's weight 0.5"].reached is None, "the row has not run"
    over_reference = found["over_reference"]
    assert (over_reference.value, over_reference.reached) == (pytest.approx(0.175), True)
    assert found["over_reference, as many steps"].value is None


def test_a_mean_that_one_seed_contradicts_is_not_over_the_reference(rows):
    for name, tests in (("curated", (0.3, 0.3)), ("joint", (0.29, 0.5))):
        cells = [cell(name, seed, (0, 0, 1), test=test) for seed, test in enumerate(tests)]
        rows[name] = row_of(name, *cells)
    found = {figure.name: figure for figure in claims.figures(rows, POOL)}["over_reference"]
    assert (found.value, found.reached) == (pytest.approx(0.095), False)
    assert found.detail.endswith("not higher at 1 of 2 seeds")


def test_figures_that_are_missed_or_not_measured(rows):
    worse = dict(rows)
    del worse["flexi"]
    worse["joint"] = row_of("joint", cell("joint", 0, (0, 0.05, 0.1)), cell("joint", 1, (0, 0, 0)))
    found = {figure.name: figure for figure in claims.figures(worse, POOL)}
    assert (found["steps_speedup"].value, found["steps_speedup"].reached) == (None, False)
    assert found["flops_speedup"].reached is None
    assert not found["score_gain against uniform"].reached
    assert not found["noisy_share"].reached


def test_verdicts(rows):
    def verdict(joint_scores, easy_scores):
        scores = {"joint": joint_scores, "easy": easy_scores, "hard": (0.0, 0.01, 0.0)}
        made = {
            name: row_of(name, *(cell(name, s, (0, 0, v)) for s, v in enumerate(values)))
            for name, values in scores.items()
        }
        (claim,) = claims.claims(made)
        return claim

    clear = verdict((0.5, 0.6, 0.5), (0.3, 0.4, 0.29))
    assert clear.verdict == "confirmed"
    assert clear.numbers[0].startswith("joint, learnability minus joint, easy reference: +20.3 ±")
    assert verdict((0.3, 0.4, 0.3), (0.5, 0.6, 0.51)).verdict == "refuted"
    assert verdict((0.5, 0.2, 0.5), (0.3, 0.4, 0.3)).verdict == "undecided"


def test_more_chunks_must_not_help(rows):
    def verdict(of_64):
        scores = {"joint": (0.5, 0.6), "chunks64": of_64}
        made = {
            name: row_of(name, *(cell(name, s, (0, 0, v)) for s, v in enumerate(values)))
            for name, values in scores.items()
        }
        return claims.claims(made)[0].verdict

    assert verdict((0.5, 0.6)) == "confirmed"
    assert verdict((0.7, 0.81)) == "refuted"
    assert verdict((0.3, 0.41)) == "refuted", "much worse is not as good"
    assert verdict((0.49, 0.6)) == "undecided", "two seeds apart: nothing seen, nothing shown"


def test_an_interval_is_students():
    assert Mean(1.0, 0.1, 2).interval == pytest.approx((1 - 1.2706, 1 + 1.2706), abs=1e-4)
    assert Mean(1.0, 0.1, 5).interval == pytest.approx((1 - 0.27764, 1 + 0.27764), abs=1e-4)
    assert Mean(1.0, None, 1).interval == (-math.inf, math.inf)


def test_flops_with_the_training_of_the_reference(rows):
    # 1,000 uniform steps against 100 of the reference and, cached, .6 * 4 * (25 and 50) of joint.
    found = analysis.with_reference(rows["joint"], rows, "retrieval")
    assert found.mean == pytest.approx((1000 / (100 + 60) + 1000 / (100 + 120)) / 2)
    assert analysis.with_reference(rows["curated"], rows, "retrieval").mean == pytest.approx(
        (1000 / (50 / 0.3 * 0.2) + 1000 / (50 / 0.3 * 0.2)) / 2
    )
    assert analysis.with_reference(rows["uniform_same_steps"], rows, "retrieval").n == 1


def test_answers_compare_the_seeds_that_both_rows_have(rows):
    rows["greedy"] = row_of("greedy", cell("greedy", 1, (0, 0, 0.8), broken=0.10, test=0.7))
    rows["curated_softmax"] = row_of("curated_softmax", cell("curated_softmax", 0, (0, 0, 1)))
    found = answers(rows, POOL)
    pairs = [(answer.changed, answer.plain) for answer in found]
    assert pairs == [
        ("joint, greedy", "joint, learnability"),
        ("joint, learnability", "independent top-k"),
        ("joint, greedy", "independent top-k"),
        ("Flexi-JEST", "joint, learnability"),
    ]
    greedy = found[0]
    # Seed 1 alone is shared: .7 - .5 on the test part, .8 - .5 on the other, .10 - .04 broken.
    assert (greedy.retrieval.n, greedy.retrieval.error) == (1, None)
    assert greedy.retrieval.mean == pytest.approx(0.2)
    assert greedy.validation.mean == pytest.approx(0.3)
    assert greedy.broken.mean == pytest.approx(0.06)
    small = cell("flexi_remedies", 0, (0, 0, 1))
    small["config"] |= {"data": {"image_size": 48}, "model": {"patch_size": 12}}
    small["cost"] = {"flops": 10.0, "flops/score_learner": 4.0, "flops/train@48/12": 3.0}
    text = make_page(rows | {"flexi_remedies": row_of("flexi_remedies", small)})
    assert "| joint, greedy − independent top-k | +30.0 | +40.0 |" in text
    assert "50% of the FLOPs of Flexi-JEST's scores resize 64 px pictures to 48 px" in text
    assert "40% of a step's FLOPs are scores and 30% train half of b at full" in text


def test_every_question_is_about_declared_rows():
    names = {row.name for row in suites.FULL_ROWS}
    for question, changed, plain in QUESTIONS:
        assert {changed, plain} <= names, question


def test_trials_and_rows_are_told_apart():
    declared = (
        Row("tune_joint_0.001", "t", "trial", "", ((RATE, 1e-3),), (100,)),
        Row("tune_joint_0.01", "t", "trial", "", ((RATE, 1e-2),), (100,)),
        Row("joint", "j", "headline", "", seeds=(0, 1)),
        Row("unfinished", "u", "headline", ""),
    )
    results = {
        "tune_joint_0.001-s100": cell("tune_joint_0.001", 100, (0, 0.9, 0.2)),
        "tune_joint_0.01-s100": cell("tune_joint_0.01", 100, (0, 0.1, 0.3)),
        "joint-s1": cell("joint", 1, (0, 0.1, 0.2)),
    }
    assert list(analysis.by_row(declared, results)) == ["joint"]
    (tried,) = analysis.trials(declared, results)
    assert (tried.name, tried.scores, tried.best) == ("joint", {1e-3: 0.2, 1e-2: 0.3}, 1e-2)


def test_late_gain_tells_whether_a_run_has_converged(rows):
    # From .1 at 500 steps: .05 and .15 more by 1,000, of which 2/5 after step 800.
    assert analysis.late_gain(rows["uniform"]).mean == pytest.approx((0.02 + 0.06) / 2)


def make_page(rows) -> str:
    results = [cell for row in rows.values() for cell in row.cells]
    tried = [
        analysis.Trials("joint", {1e-3: 0.2, 1e-2: 0.3}),
        analysis.Trials("independent_top_k", {1e-3: 0.4, 1e-2: 0.2}),
    ]
    command = "python -m benchmarks.evidence --suite=main"
    shown = page.Shown(command, rows, "results", "../runs.jsonl.gz", results, ["joint-s2"], POOL)
    return page.page("full", shown, tried, claims.figures(rows, POOL), claims.claims(rows))


def test_page_shows_the_numbers_and_where_they_come_from(rows):
    text = make_page(rows)
    assert "| `steps_speedup` | ≥ 13x | 30.0x ± 10.0 | reached |" in text
    assert "| `flops_speedup` | ≥ 10x | 20.0x | missed |" in text
    assert "| joint, learnability | 2/2 | 30.0x ± 10.0 | 7.5x ± 2.5 |" in text
    assert "**1 declared runs are not finished**: joint-s2." in text
    assert "| joint, learnability | 20.0 | 30.0 | as below |" in text
    assert "| mean of both selecting policies | 30.0 | 25.0 | 0.001 |" in text
    assert "joint selection 1.50, independent top-k on the same scores 1.75, uniform -1.50" in text
    assert "80% of the selected examples in common with top-k" in text
    widths = {}
    for block in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
        widths[block[:40]] = {line.count("|") for line in block.splitlines()}
    assert all(len(n) == 1 for n in widths.values()), "every table is rectangular"


def test_page_of_an_unfinished_suite(rows):
    text = make_page({"curated": rows["curated"]})
    assert "not measured yet" in text
    assert "equal cost" not in text


def test_pictures_are_drawn(rows, tmp_path):
    shown = list(copy.deepcopy(rows).values())
    plots.scores(shown, tmp_path / "a.png", "retrieval", "retrieval", 0.2)
    plots.picked(shown, tmp_path / "b.png", POOL)
    plots.distinct(shown, tmp_path / "c.png")
    for name in "abc":
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_are_drawn_before_anything_was_picked(rows, tmp_path):
    unpicked = [row_of("curated", rows["curated"].by_seed[0] | {"picks": None})]
    plots.picked(unpicked, tmp_path / "a.png", POOL)
    plots.distinct(unpicked, tmp_path / "b.png")
    for name in "ab":
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
