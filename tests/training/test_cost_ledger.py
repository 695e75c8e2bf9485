"""The ledger's arithmetic, and the paper's own accounting of a Flexi-JEST step."""

import dataclasses
import json

import pytest

from jest_tf.models.dual_encoder import VARIANTS
from jest_tf.selection.spec import SelectionSpec
from jest_tf.training import cost
from jest_tf.training.cost import CostLedger, CostModel, StepCost
from jest_tf.training.resolution import Approximation, Fidelity, Resolution, ResolutionSchedule

MODEL = VARIANTS["B"]
SPEC = SelectionSpec(super_batch=163_840, sub_batch=32_768, n_chunks=16)
FULL = Fidelity.full(MODEL)


def _plan(**settings):
    return ResolutionSchedule(MODEL, sub_batch=SPEC.sub_batch, total_steps=10, **settings).plan(0)


def test_a_vit_b_16_forward_has_the_size_known_from_the_literature():
    # 17.6 GMACs at 224 px with a class token (Dosovitskiy et al.); the head is pooled here.
    at = Approximation(Resolution(224, 16)).of(FULL, "test")
    assert cost.image_tower_flops(MODEL, at) == pytest.approx(2 * 17.6e9, rel=0.02)


def test_patch_32_saves_72_percent_of_the_image_tower():
    low = Approximation(Resolution(256, 32)).of(FULL, "test")
    share = cost.image_tower_flops(MODEL, low) / cost.image_tower_flops(MODEL, FULL)
    assert 1 - share == pytest.approx(0.72, abs=0.05)


def test_phases_of_a_flexi_step_are_priced_one_by_one():
    plan = _plan(score=Approximation(Resolution(256, 32)), low_share=0.5)
    priced = CostModel(MODEL, SPEC, stored_image_size=256, reference=MODEL).step(plan)
    low, full = plan.score, FULL
    loss = 3 * 2 * SPEC.sub_batch**2 * 768
    assert priced.flops == {
        "score_learner": SPEC.super_batch * cost.forward_flops(MODEL, low),
        "score_reference": SPEC.super_batch * cost.forward_flops(MODEL, full),
        "select": cost.select_flops(SPEC, [768, 768]),
        "train@256/32": 16_384 * cost.train_flops(MODEL, low),
        "train@256/16": 16_384 * cost.train_flops(MODEL, full) + loss,
    }
    assert (priced.examples_scored, priced.examples_trained) == (163_840, 32_768)
    # Selection is a small matter at this size.
    assert priced.flops["select"] < 0.02 * priced.total_flops


def test_a_cached_reference_costs_only_its_part_of_the_selection():
    plan = _plan()
    cached = CostModel(MODEL, SPEC, stored_image_size=256, reference_dim=1024).step(plan).flops
    assert "score_reference" not in cached
    assert cached["select"] == cost.select_flops(SPEC, [768, 1024])


@pytest.mark.parametrize(
    ("criterion", "scored"),
    [
        ("learnability", {"score_learner", "score_reference"}),
        ("hard_learner", {"score_learner"}),
        ("easy_reference", {"score_reference"}),
    ],
)
def test_only_the_models_that_the_criterion_uses_are_priced(criterion, scored):
    spec = SelectionSpec(super_batch=640, sub_batch=128, criterion=criterion)
    flops = CostModel(MODEL, spec, stored_image_size=256, reference=MODEL).step(_plan()).flops
    assert {phase for phase in flops if phase.startswith("score")} == scored


def test_uniform_pays_for_training_alone_and_scores_nothing():
    spec = SelectionSpec(super_batch=640, sub_batch=128, policy="uniform")
    schedule = ResolutionSchedule(MODEL, sub_batch=128, total_steps=1)
    priced = CostModel(MODEL, spec, stored_image_size=256, reference=MODEL).step(schedule.plan(0))
    assert list(priced.flops) == ["train@256/16"]
    assert (priced.examples_scored, priced.examples_trained) == (0, 128)


def test_distillation_pays_for_the_reference_that_the_policy_does_not_need():
    spec = SelectionSpec(super_batch=128, sub_batch=128, policy="uniform")
    plan = ResolutionSchedule(MODEL, sub_batch=128, total_steps=1, reference_model=MODEL).plan(0)
    options = {"stored_image_size": 256, "reference": MODEL}
    plain = CostModel(MODEL, spec, **options).step(plan).flops
    distilled = CostModel(MODEL, spec, distils=True, **options).step(plan).flops
    more = distilled["train@256/16"] - plain["train@256/16"]
    assert more == cost.distillation_flops(128, 768, 768, "sigmoid")
    assert distilled["score_reference"] == 128 * cost.forward_flops(MODEL, FULL)


@pytest.mark.parametrize(("micro_batch", "more"), [(0, 0), (16_384, 0), (4_096, 1)])
def test_memory_is_saved_for_another_forward_which_is_priced(micro_batch, more):
    """16,384 of the sub-batch are on each of two replicas."""
    price = {
        recompute: CostModel(
            MODEL, SPEC, stored_image_size=256, n_replicas=2,
            micro_batch=micro_batch, recompute=recompute,
        ).step(_plan()).flops["train@256/16"]
        for recompute in (False, True)
    }  # fmt: skip
    plain = CostModel(MODEL, SPEC, stored_image_size=256, n_replicas=2).step(_plan())
    forward = SPEC.sub_batch * cost.forward_flops(MODEL, FULL)
    assert price[False] - plain.flops["train@256/16"] == more * forward
    # All of a forward but patches, pooling and projections is blocks.
    assert price[True] - price[False] == pytest.approx(forward, rel=0.02)


def test_selection_costs_b_columns_per_direction_whatever_the_chunks():
    few, many = (
        cost.select_flops(SelectionSpec(super_batch=1000, sub_batch=100, n_chunks=n), [8])
        for n in (1, 100)
    )
    # The last chunk meets the 100 chosen, for their joint score.
    assert few == 2 * 8 * (1000 + 2 * 100 * 100)
    assert many == 2 * 8 * (1000 * (1 + 2 * 99) + 2 * 100 * 1)
    independent = SelectionSpec(
        super_batch=1000, sub_batch=100, n_chunks=1, policy="independent_top_k"
    )
    assert cost.select_flops(independent, [8, 8]) == 2 * 2 * 1000 * 8


def test_the_ledger_adds_up_and_survives_json():
    ledger = CostLedger()
    low = StepCost({"select": 5, "train@48/16": 10}, 640, 128)
    full = StepCost({"select": 5, "train@48/8": 30}, 640, 128)
    ledger.add(low, 3, {"input": 0.5, "step": 2.0})
    ledger.add(full, 2, {"step": 4.0})
    assert ledger.flops == {"select": 25, "train@48/16": 30, "train@48/8": 60}
    assert ledger.seconds == {"input": 0.5, "step": 6.0}
    assert (ledger.steps, ledger.examples_scored, ledger.examples_trained) == (5, 3200, 640)
    restored = CostLedger(**json.loads(json.dumps(dataclasses.asdict(ledger))))
    assert restored == ledger
    restored.add(full, 1, {"step": 1.0})
    assert restored.totals["flops"] == 150 and restored.total_seconds == 7.5
    assert ledger.totals["flops"] == 115
    scalars = restored.scalars()
    assert scalars["cost/flops"] == 150 and scalars["cost/flops/train@48/8"] == 90
    assert scalars["cost/seconds/input"] == 0.5 and scalars["cost/examples_scored"] == 3840


def test_seconds_are_split_by_the_parts_and_never_lost_or_made_up():
    parts = {"score_learner": 0.2, "select": 0.1}
    assert cost.split_seconds(5.0, 10, parts) == pytest.approx(
        {"score_learner": 2.0, "select": 1.0, "train": 2.0}
    )
    # Parts that took longer alone than the whole step: their proportion is kept, their sum is not.
    assert cost.split_seconds(1.5, 10, parts) == pytest.approx(
        {"score_learner": 1.0, "select": 0.5, "train": 0.0}
    )
    assert cost.split_seconds(3.0, 2, {}) == {"train": 3.0}
