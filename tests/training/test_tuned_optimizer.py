"""Rates per variable and averaged weights: against arithmetic, on replicas, in a refused step."""

import numpy as np
import tiny

EMA, SLOW = 0.5, 0.1


def trainer(n_replicas: int, ema: float, slow: float, traced: bool = True):
    """A uniform run whose text tower learns at `slow` times the rate."""
    return tiny.trainer(
        n_replicas, policy=tiny.spec(policy="uniform"), optimizer={"warmup_steps": 0, "ema": ema},
        rate_of=lambda variable: slow if "/text/" in variable.path else 1.0, traced=traced,
    )  # fmt: skip


def weights(model) -> dict[str, np.ndarray]:
    return {v.path: v.numpy() for v in model.learner.trainable_variables}


def averages(model) -> dict[str, np.ndarray]:
    paths = [v.path for v in model.learner.trainable_variables]
    return {p: v.numpy() for p, v in zip(paths, model.optimizer.averages, strict=True)}


def test_a_step_moves_each_variable_at_its_rate_and_averages_it():
    """Adam's first step is linear in the rate, decay included. Averages stand in, and go again."""
    moved = {}
    for slow in (1.0, SLOW):
        model, loop, schedule = trainer(1, EMA, slow, traced=slow == SLOW)
        before = weights(model)
        assert all(np.array_equal(before[p], a) for p, a in averages(model).items())
        loop.run(schedule.plan(0), 1)
        after = weights(model)
        moved[slow] = {p: after[p] - before[p] for p in before}
        for path, average in averages(model).items():
            expected = before[path] + (1 - EMA) * (after[path] - before[path])
            np.testing.assert_allclose(average, expected, rtol=1e-6, atol=1e-7)
    for path, change in moved[1.0].items():
        rate = SLOW if "/text/" in path else 1.0
        np.testing.assert_allclose(moved[SLOW][path], rate * change, rtol=1e-2, atol=1e-6)

    own, averaged = weights(model), averages(model)
    with model.optimizer.averaged(model.learner.trainable_variables):
        assert all(np.array_equal(averaged[p], v) for p, v in weights(model).items())
    assert all(np.array_equal(own[path], v) for path, v in weights(model).items())


def test_a_refused_step_keeps_every_bit_of_the_averages():
    model, loop, schedule = trainer(2, EMA, SLOW)
    loop.run(schedule.plan(0), 1)
    model.learner.log_scale.assign(200.0)  # exp overflows: the loss is not finite
    before = weights(model), averages(model)
    assert loop.run(schedule.plan(0), 1).of_each["accepted"].tolist() == [0.0]
    for old, new in zip(before, (weights(model), averages(model)), strict=True):
        assert all(np.array_equal(old[path], new[path]) for path in old)
