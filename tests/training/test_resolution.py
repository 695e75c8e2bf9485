"""Resolutions, plans and schedules against counts and order worked out by hand."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from jest_tf.errors import UserError
from jest_tf.models.dual_encoder import DualEncoderConfig
from jest_tf.training.resolution import (
    Approximation,
    Fidelity,
    Resolution,
    ResolutionSchedule,
    StepPlan,
    TrainPart,
)

MODEL = DualEncoderConfig.from_variant("mu")  # 48/8, 4 + 2 blocks, 16 tokens
OWN, LOW, SMALL = Resolution(48, 8), Resolution(48, 16), Resolution(24, 8)


def _schedule(**settings) -> ResolutionSchedule:
    return ResolutionSchedule(MODEL, **{"sub_batch": 128, "total_steps": 100} | settings)


def test_a_resolution_is_written_image_slash_patch():
    assert Resolution.parse("256/16") == Resolution(256, 16)
    assert str(Resolution(256, 16)) == "256/16"


@pytest.mark.parametrize("text", ["256", "256/", "a/b", "256/16/2", "-256/16", "0/0", "50/16"])
def test_a_wrong_resolution_is_refused(text):
    with pytest.raises(UserError, match="expected IMAGE/PATCH"):
        Resolution.parse(text)


def test_by_default_everything_is_the_model_itself():
    schedule = _schedule()
    full = Fidelity(OWN, 4, 2, 16)
    assert schedule.plan(57) == StepPlan(full, full, (TrainPart(full, 128),))
    assert schedule.plans() == (schedule.plan(0),)
    assert schedule.steps_left(57) == 43


def test_what_compiles_says_where_and_for_how_long():
    plan = _schedule(score=Approximation(LOW), low_share=0.25).plan(0)
    # Trained are 6 blocks at each of two resolutions, and 12 score: 4 + 0.7 * 12 + 0.4 * 12 s.
    assert plan.compiling() == "compiling the step (48/16 and 48/8), about 17 s"


def test_flexi_trains_a_share_exactly_as_it_scores():
    cheap = Approximation(LOW, image_depth=3, text_depth=1, n_tokens=8)
    plan = _schedule(score=cheap, low_share=0.25).plan(0)
    low, full = Fidelity(LOW, 3, 1, 8), Fidelity(OWN, 4, 2, 16)
    assert plan.score == low and plan.reference == full
    assert plan.train == (TrainPart(low, 32), TrainPart(full, 96))


def test_the_extreme_shares_leave_one_part():
    assert len(_schedule(score=Approximation(LOW), low_share=0.0).plan(0).train) == 1
    everything_low = _schedule(score=Approximation(LOW), low_share=1.0).plan(0).train
    assert everything_low == (TrainPart(Fidelity(LOW, 4, 2, 16), 128),)
    # Scored as trained: nothing to split.
    assert len(_schedule(low_share=0.5).plan(0).train) == 1


def test_stages_follow_their_fractions():
    schedule = _schedule(total_steps=10, stages=[(0.3, SMALL), (0.5, LOW), (0.2, OWN)])
    seen = [schedule.plan(step).train[0].at.resolution for step in range(10)]
    assert seen == [SMALL] * 3 + [LOW] * 5 + [OWN] * 2
    assert [schedule.plan(s).score.resolution for s in (0, 9)] == [SMALL, OWN]
    assert [schedule.steps_left(s) for s in (0, 2, 3, 7, 8, 9)] == [3, 1, 5, 1, 2, 1]
    assert len(schedule.plans()) == 3
    assert schedule.plan(10) == schedule.plan(9)


def test_random_resolutions_hold_and_depend_on_seed_and_step_alone():
    choices = [SMALL, LOW, OWN]
    one = _schedule(random=choices, hold_steps=5, seed=3)
    again, other = (_schedule(random=choices, hold_steps=5, seed=s) for s in (3, 4))
    seen = [one.plan(step).train[0].at.resolution for step in range(3000)]
    # Asked in another order, as after a restart, the answer is the same.
    assert [again.plan(step).train[0].at.resolution for step in range(2999, -1, -1)] == seen[::-1]
    assert [other.plan(step).train[0].at.resolution for step in range(3000)] != seen
    for start in range(0, 3000, 5):
        assert len(set(seen[start : start + 5])) == 1
    assert all(one.plan(s) == one.plan(s + k) for s in range(40) for k in range(one.steps_left(s)))
    counts = collections.Counter(seen[::5])
    assert min(counts[c] for c in choices) > 150  # 200 expected of each, sd 12
    assert set(one.plans()) == {one.plan(step) for step in range(3000)}


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_split_gives_each_part_its_share_of_every_region(jit_compile):
    parts = (TrainPart(Fidelity(LOW, 4, 2, 16), 8), TrainPart(Fidelity(OWN, 4, 2, 16), 24))
    plan = StepPlan(parts[0].at, parts[1].at, parts)
    positions = np.random.default_rng(0).permutation(500)[:32].astype(np.int32)
    split = tf.function(
        lambda p, s: [rows for _, rows in plan.split(p, s)], jit_compile=jit_compile
    )
    times_low = collections.Counter()
    for step in range(200):
        low, high = (rows.numpy() for rows in split(tf.constant(positions), tf.constant([7, step])))
        assert sorted([*low, *high]) == sorted(positions)
        ordered = np.sort(positions).reshape(8, 4)
        assert all(len(set(group) & set(low)) == 1 for group in ordered)
        times_low.update(low.tolist())
    # Each of the 32 is low a quarter of the time: 50 of 200, sd 6.
    assert min(times_low.values()) > 25 and max(times_low.values()) < 75


def test_the_split_depends_on_seed_and_step_and_not_on_the_order_of_the_draw():
    cheap = _schedule(score=Approximation(LOW), low_share=0.5).plan(0)
    positions = tf.range(128)
    first, same, turned, other = (
        cheap.split(p, tf.constant(s))[0][1].numpy()
        for p, s in [
            (positions, [1, 2]),
            (positions, [1, 2]),
            (positions[::-1], [1, 2]),
            (positions, [1, 3]),
        ]
    )
    np.testing.assert_array_equal(first, same)
    np.testing.assert_array_equal(first, turned)
    assert set(first) != set(other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": [(0.5, OWN)]}, r"fractions \[0.5\]"),
        ({"stages": [(1.5, OWN), (-0.5, LOW)]}, "fractions"),
        ({"stages": [(1.0, OWN)], "random": [OWN]}, "both set"),
        ({"low_share": 1.5}, "low_share = 1.5: expected 0 to 1"),
        ({"low_share": 0.3}, "is 38.4 examples"),
        ({"low_share": 0.5, "sub_batch": 12, "n_replicas": 4}, "multiple of the 4 replica"),
        ({"score": Approximation(image_depth=5)}, "score.image_depth = 5: expected 1 to 4"),
        ({"score": Approximation(n_tokens=17)}, "score.n_tokens = 17: expected 1 to 16"),
        ({"reference": Approximation(text_depth=3)}, "reference.text_depth = 3"),
        ({"random": [OWN], "hold_steps": 0}, "hold_steps = 0"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        _schedule(**settings)
