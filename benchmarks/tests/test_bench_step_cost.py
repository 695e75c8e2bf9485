"""The rows by formula: their goals, and one of them worked out by hand."""

import pytest

from benchmarks.step_cost import RECIPES, analytic_rows, plan_of
from jest_tf.models.dual_encoder import VARIANTS
from jest_tf.training.resolution import Resolution


@pytest.fixture(scope="module")
def rows() -> dict[str, dict]:
    return {row.get("recipe") or row["figure"]: row for row in analytic_rows()}


def test_flexi_is_within_the_published_cost_and_the_cheapest_below_plain_training(rows):
    assert rows["flexi_flops_ratio_image"]["value"] <= 1.11
    assert rows["flexi_flops_ratio"]["value"] <= 1.36
    assert rows["cheapest_flops_ratio"]["value"] <= 1.0


def test_unapproximated_jest_costs_five_forwards_more_than_a_third_of_training(rows):
    # 5 of B = 5b scored, against 3 of b trained, and a selection of less than 1%.
    assert rows["jest"]["value"] == pytest.approx((5 + 3) / 3, rel=0.01)


@pytest.mark.parametrize("variant", ["mu", "B"])
def test_recipes_fit_the_models_that_they_are_measured_on(variant):
    model = VARIANTS[variant]
    plans = {name: plan_of(recipe, model, 128) for name, recipe in RECIPES.items()}
    coarse = Resolution(model.image_size, 2 * model.patch_size)
    assert plans["flexi"].score.resolution == coarse
    assert [part.n_examples for part in plans["flexi"].train] == [64, 64]
    assert plans["cheapest"].score.text_depth == model.text.depth // 2
