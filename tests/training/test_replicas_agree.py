"""Twenty steps on 1 and 4 replicas: the same losses, weights and picks.

Two worker processes: test_multi_worker.py.
"""

import agreement
import near_ties
import numpy as np
import tiny

STEPS = 20
# Sums over replicas are rounded in another order, and Adam carries the difference on.
LOSS_RTOL = 1e-4


def train(n_replicas: int):
    """(results of the single steps, the model after the last)."""
    batches = [tiny.super_batch(step) for step in range(STEPS)]
    model, host_loop, schedule = tiny.trainer(
        n_replicas, batches=batches, schedule=tiny.FLEXI, sizes=tiny.TWO_BLOCKS, clip_norm=0.5
    )
    results = [host_loop.run(schedule.plan(step), 1) for step in range(STEPS)]
    return results, model


def each(results, name: str) -> np.ndarray:
    return np.array([result.metrics[name] for result in results])


def test_losses_weights_and_picks_do_not_depend_on_the_number_of_replicas():
    alone, expected = train(1)
    assert (each(alone, "train/gradient_norm") > 0.5).any(), "clipping must be part of it"
    results, model = train(4)
    picks = [result.picks[0] for result in results]
    alike = near_ties.steps_alike(tiny.spec(), alone, picks)
    for name in ("train/loss", "train/gradient_norm", "train/learning_rate"):
        found, single = each(results, name)[:alike], each(alone, name)[:alike]
        np.testing.assert_allclose(found, single, rtol=LOSS_RTOL)
    if alike == STEPS:
        agreement.assert_trained_alike(model, expected, agreement.MANY_STEPS)
