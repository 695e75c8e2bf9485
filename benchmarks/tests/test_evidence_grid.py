"""The declared experiments: sound, complete, in an order that works, equal where they must be."""

import pytest

from benchmarks.evidence import suites, tuning
from benchmarks.evidence.grid import BASE_CACHE, RATE, Row, make_cells, rate_of, tried_for
from jest_tf import config_flag
from jest_tf.config import flat
from jest_tf.errors import UserError
from jest_tf.training.assemble import model_size, resolution_schedule, selection_spec
from jest_tf.training.cost import CostModel


def all_cells(rows=suites.FULL_ROWS):
    return make_cells(rows, [row.name for row in rows])


def test_every_declared_cell_has_a_sound_config():
    for cell in [*all_cells(), *all_cells(suites.RESULTS_ROWS)]:
        assert cell.config.seed == cell.seed
        for field, value in cell.row.overrides:
            node = cell.config
            for part in field.split("."):
                node = node[part]
            assert node == value


def test_what_a_cell_needs_comes_before_it():
    for suite in suites.SUITES.values():
        seen = set()
        for cell in make_cells(suite.rows, suite.wanted):
            assert {need.name for need in cell.needs} <= seen
            seen.add(cell.name)


def test_selecting_runs_load_what_uniform_trains_on():
    cells = {cell.name: cell.config for cell in all_cells()}
    joint, uniform = cells["joint-s0"], cells["uniform-s0"]
    loaded = joint.total_steps * joint.selection.super_batch
    assert loaded == uniform.total_steps * uniform.selection.sub_batch
    assert cells["uniform_same_steps-s0"].total_steps == joint.total_steps


def test_approximations_are_compared_at_equal_flops():
    suite = suites.SUITES["approximations"]
    for cell in make_cells(suite.rows, suite.wanted):
        config = cell.config
        if cell.row.name == suites.CURATED:
            continue
        size = model_size(config, config.data.vocab_size)
        cost = CostModel(size, selection_spec(config), config.data.image_size)
        plan = resolution_schedule(config, size, size, n_replicas=1).plan(0)
        total = config.total_steps * cost.step(plan).total_flops
        assert total == pytest.approx(suites.SAME_FLOPS, rel=0.01), cell.name


ANEW = (
    suites.ANEW_UNIFORM, suites.ANEW_CLIPSCORE, suites.ANEW_DISTILLED, suites.ANEW_RECIPE,
    suites.ANEW_FILTERED, suites.ANEW_JOINT,
)  # fmt: skip


PHOTOS = [row.name for row in tuning.PHOTO_ROWS if row.name != tuning.PHOTOS_REFERENCE]
SHORT, LONG = ([*map(tuning.on_first_base, names)] for names in (tuning.SHORT, tuning.LONG))
PHOTOS_NEW = [row.name for row in tuning.PHOTO_NEW_ROWS]
COMPARED = {
    "60": SHORT, "180": LONG, "new": ANEW, "photos": PHOTOS, "photos_new": PHOTOS_NEW,
}  # fmt: skip


@pytest.mark.parametrize("names", COMPARED.values(), ids=list(COMPARED))
def test_rows_are_compared_at_equal_flops(names):
    cells, flops = {cell.row.name: cell for cell in all_cells(suites.RESULTS_ROWS)}, {}
    for name in names:
        config = cells[name].config
        if config.model.init:
            config.model.variant = "mu"  # as the shipped base
        size = model_size(config, config.data.vocab_size)
        cost = CostModel(size, selection_spec(config), config.data.image_size)
        plan = resolution_schedule(config, size, size, n_replicas=1).plan(0)
        flops[name] = config.total_steps * cost.step(plan).total_flops
    assert list(flops.values()) == pytest.approx([flops[names[-1]]] * len(names), rel=0.01)


def test_the_trial_seed_and_its_test_part_are_reported_nowhere():
    for row in suites.RESULTS_ROWS:
        assert (tuning.TRIAL_SEED in row.seeds) == (row.group == "trial")
    rows = {row.name: row for row in tuning.ROWS}
    claimed = [tuning.RECIPE, tuning.JOINT_PREFILTERED, tuning.UNIFORM_FLOPS, tuning.CLIPSCORE]
    assert all(len(rows[name].seeds) > 1 for name in claimed)
    assert {rows[tuning.on_first_base(name)].seeds for name in claimed} == {tuning.MAIN_SEEDS}


REMEDIES = ("greedy", "weight50", "remedies", suites.FLEXI_MOSTLY_LOW)


def test_headline_and_remedies_have_five_seeds_and_the_rest_two():
    for row in suites.FULL_ROWS:
        expected = {"headline": 5, "ablation": 2, "trial": 1}[row.group]
        if row.name in REMEDIES:
            expected = 5
        assert len(row.seeds) == expected, row.name
    reported = {seed for row in suites.FULL_ROWS if row.group != "trial" for seed in row.seeds}
    assert suites.TRIAL_SEED not in reported


def test_every_headline_policy_gets_the_same_trials():
    policies = ("curated", "uniform", "uniform_same_steps", *suites.CHOOSING)
    policies += ("distilled", "uniform_distilled")
    declared = {name: [] for name in policies}
    for row in suites.FULL_ROWS:
        if row.group == "trial":
            declared[tried_for(row)].append(dict(row.overrides)[RATE])
    assert set(map(tuple, declared.values())) == {suites.TRIAL_RATES}

    cells = {cell.name: cell for cell in all_cells()}
    for name in declared:
        trials = {tried_for(trial.row) for trial in cells[f"{name}-s0"].trials}
        assert trials == (set(suites.CHOOSING) if name == suites.JOINT else {name})


def test_only_the_validation_part_is_evaluated_along_training():
    for cell in all_cells():
        for name, spec in cell.config.evals.items():
            assert spec.data.endswith(":validation" if spec.every_steps else ":test"), name


def test_the_reference_has_the_seed_of_its_learner():
    cells = {cell.name: cell for cell in all_cells()}
    assert cells["joint-s3"].reference.name == "curated-s3"
    assert cells["dirty_reference-s1"].reference.name == "uniform-s1"
    assert cells["uniform-s3"].reference is None


ROWS = (
    Row("reference", "r", "headline", "reference,steps=20", seeds=(0, 1)),
    Row("learner", "l", "headline", "policy=joint,steps=20", seeds=(0, 1), reference="reference"),
)


def test_a_definition_changes_with_what_the_cell_stands_on():
    before = {c.name: c.definition for c in make_cells(ROWS, ["learner"])}
    assert len(set(before.values())) == 4, "all different"
    again = {c.name: c.definition for c in make_cells(ROWS, ["learner"])}
    assert again == before
    changed = (Row("reference", "r", "headline", "reference,steps=24", seeds=(0, 1)), ROWS[1])
    after = {c.name: c.definition for c in make_cells(changed, ["learner"])}
    assert all(after[name] != before[name] for name in before)


def test_overrides_reach_every_cell():
    for cell in make_cells(ROWS, ["learner"], {"model.image_size": 16}):
        assert cell.config.model.image_size == 16


def test_the_best_trial_on_the_validation_part_gives_the_rate():
    trials = tuple(
        Row(f"tune_a_{rate:g}", "t", "trial", "policy=uniform,steps=20", ((RATE, rate),), (100,))
        for rate in (1e-3, 1e-2)
    )
    row = Row("a", "a", "headline", "policy=uniform,steps=20", tuned_as=("a",))
    cell = make_cells((*trials, row), ["a"])[-1]
    assert [t.name for t in cell.trials] == ["tune_a_0.001-s100", "tune_a_0.01-s100"]
    results = {
        "tune_a_0.001-s100": {"curve": {"retrieval": [0.9, 0.2]}},
        "tune_a_0.01-s100": {"curve": {"retrieval": [0.1, 0.3]}},
    }
    assert rate_of(cell, results) == 1e-2, "the final score decides"


def test_trials_of_two_rows_decide_by_their_mean():
    trials = tuple(
        Row(f"tune_{name}_{rate:g}", "t", "trial", "policy=uniform", ((RATE, rate),), (100,))
        for name in ("a", "b")
        for rate in (1e-3, 1e-2)
    )
    row = Row("a", "a", "headline", "policy=uniform,steps=20", tuned_as=("a", "b"))
    cell = make_cells((*trials, row), ["a"])[-1]
    finals = {"tune_a_0.001": 0.3, "tune_a_0.01": 0.4, "tune_b_0.001": 0.4, "tune_b_0.01": 0.1}
    results = {f"{name}-s100": {"curve": {"retrieval": [score]}} for name, score in finals.items()}
    assert rate_of(cell, results) == 1e-3, "a alone would have taken 0.01"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Row("a", "a", "ablation", "policy=joint", reference="refrence"), "'reference'"),
        (Row("a", "a", "ablation", "policy=uniform", tuned_as=("b",)), "no trial rows"),
        (Row("a", "a", "ablation", "policy=uniform", (("model.imag_size", 3),)), "image_size"),
        (Row("a", "a", "ablation", "policy=uniform", (("total_steps", 0),)), "total_steps is 0"),
    ],
)
def test_mistakes_in_a_row_are_explained(row, message):
    with pytest.raises(UserError, match=message):
        for cell in make_cells((ROWS[0], row), ["a"]):
            assert cell.config


def test_the_recipe_is_one_argument_of_the_shipped_config():
    (row,) = (row for row in tuning.TUNED if row.name == tuning.RECIPE)
    short = flat(config_flag.load("configs/tune.py", f"scored={BASE_CACHE}"))
    groups, sizes = ("selection.", "data.", "reference."), set(tuning.SIZES)
    told = {k: v for k, v in row.overrides if k.startswith(groups) and k not in sizes}
    assert len(told) == 5 and told.items() <= short.items()
