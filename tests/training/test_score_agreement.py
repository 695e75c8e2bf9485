"""Agreement of cheap with full scores: whole where nothing is cheaper, and by hand where it is."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tiny
from scipy.stats import spearmanr

from benchmarks.approximations import agreement, rank_correlation
from jest_tf.selection import select
from jest_tf.training.resolution import Approximation, Resolution

CHEAP = Approximation(Resolution(16, 16), text_depth=1)


@pytest.fixture(scope="module")
def batches():
    return [{k: tf.constant(v) for k, v in tiny.super_batch(s).items()} for s in range(2)]


def test_full_scores_agree_with_themselves(batches):
    model, _, schedule = tiny.trainer()
    found = agreement(model, schedule.plan(0), batches)
    assert found.picks_overlap == 1.0
    assert found.rank_correlation == pytest.approx(1.0)
    assert found.redrawn_overlap < 1.0


def test_cheap_scores_by_hand(batches):
    model, _, schedule = tiny.trainer(
        schedule={"score": CHEAP, "low_share": 0.5}, sizes=tiny.TWO_BLOCKS
    )
    plan = schedule.plan(0)
    found = agreement(model, plan, batches)
    full = dataclasses.replace(plan, score=plan.train[-1].at)
    kept, ranks = [], []
    for k, batch in enumerate(batches):
        picks, alone = [], []
        for at in (full, plan):
            scored = model.score(batch, at, tf.constant([model.seed, k]))
            picks.append(set(select(model.spec, *scored).positions.numpy().tolist()))
            alone.append(sum(sign * nll(z) for sign, z in zip((1, -1), scored[:2], strict=True)))
        kept.append(len(picks[0] & picks[1]) / tiny.SUB_BATCH)
        ranks.append(spearmanr(*alone).statistic)
    assert found.picks_overlap == pytest.approx(np.mean(kept))
    assert found.rank_correlation == pytest.approx(np.mean(ranks), abs=1e-6)
    assert found.rank_correlation < 0.999, "the scores differ"


def nll(z) -> np.ndarray:
    """-log sigmoid of the matching pair's logit."""
    logit = z.scale.numpy() * np.sum(z.zimg.numpy() * z.ztxt.numpy(), axis=1) + z.bias.numpy()
    return np.logaddexp(0.0, -logit)


def test_rank_correlation_is_spearmans():
    x, y = np.random.default_rng(0).normal(size=(2, 50))
    assert rank_correlation(x, x + y) == pytest.approx(spearmanr(x, x + y).statistic, abs=1e-9)
