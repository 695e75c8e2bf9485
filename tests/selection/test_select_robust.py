"""What must never be picked, never overflow, and never pass unnoticed."""

import dataclasses

import numpy as np
import oracle
import pytest
import tensorflow as tf

from jest_tf.errors import UserError
from jest_tf.selection import Embeddings, SelectionSpec, diagnostics, select

POLICIES = ("uniform", "independent_top_k", "independent_sampled", "joint")
N, B_SUB, N_CHUNKS = 64, 16, 4
SEED = tf.constant([1, 2])
BASE = SelectionSpec(N, B_SUB, n_chunks=N_CHUNKS)


def models(seed=0, scale=10.0, bias=-4.0):
    rng = np.random.default_rng(seed)
    learner = oracle.random_model(rng, N, 16, scale, bias)
    reference = oracle.random_model(rng, N, 12, scale, bias, noise=0.4)
    return learner, reference


def run(spec, learner, reference, valid=None, gumbel=None):
    learner, reference = (
        Embeddings(**{name: tf.constant(value) for name, value in model.items()})
        for model in (learner, reference)
    )
    valid = np.ones(N, bool) if valid is None else valid
    return select(spec, learner, reference, tf.constant(valid), SEED, gumbel=gumbel)


def assert_distinct_and_in_range(positions, b=B_SUB):
    positions = positions.numpy()
    assert len(set(positions)) == b and positions.min() >= 0 and positions.max() < N


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("policy", POLICIES)
def test_invalid_and_broken_rows_are_never_picked(policy, loss):
    learner, reference = models()
    valid = np.ones(N, bool)
    valid[:8] = False
    learner["zimg"][8] = np.nan
    learner["ztxt"][9, 3] = np.inf
    reference["zimg"][10, 0] = -np.inf
    reference["ztxt"][11] = np.nan
    spec = dataclasses.replace(BASE, policy=policy, loss=loss, sub_batch=48)
    selection = run(spec, learner, reference, valid)
    assert_distinct_and_in_range(selection.positions, 48)
    if policy == "uniform":  # It reads no embeddings, so it cannot see that four are broken.
        assert selection.n_candidates == N - 8
        assert selection.positions.numpy().min() >= 8
    else:
        assert selection.n_candidates == N - 12
        assert selection.positions.numpy().min() >= 12


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_broken_rows_do_not_disturb_the_others(loss):
    learner, reference = models(seed=1)
    valid = np.ones(N, bool)
    valid[::5] = False
    gumbel = np.random.default_rng(2).gumbel(size=(N_CHUNKS, N)).astype(np.float32)
    expected = oracle.joint_picks(
        loss, "learnability", learner, reference, gumbel, BASE.chunk_size, valid
    )
    for model in (learner, reference):
        for side in ("zimg", "ztxt"):
            model[side][::5] = np.nan
    spec = dataclasses.replace(BASE, loss=loss)
    got = run(spec, learner, reference, gumbel=tf.constant(gumbel))
    np.testing.assert_array_equal(got.positions.numpy().reshape(N_CHUNKS, -1), expected)
    assert got.n_candidates == valid.sum()
    assert all(np.isfinite(value) for value in got.metrics.values())


@pytest.mark.parametrize("policy", POLICIES)
def test_too_few_candidates_are_told_and_stay_in_range(policy):
    valid = np.zeros(N, bool)
    valid[20:25] = True
    selection = run(dataclasses.replace(BASE, policy=policy), *models(), valid)
    assert selection.n_candidates == 5
    assert_distinct_and_in_range(selection.positions)
    assert set(range(20, 25)) <= set(selection.positions.numpy())


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_extreme_logits_never_overflow(loss):
    spec = dataclasses.replace(BASE, loss=loss)
    for scale, bias in ((1e4, 0), (1e4, 1e4), (200, -1e4), (1e-6, 1e30), (1e30, -1e30), (0, 0)):
        selection = run(spec, *models(scale=scale, bias=bias))
        assert selection.n_candidates == N, (scale, bias)
        assert_distinct_and_in_range(selection.positions)
        if max(scale, abs(bias)) <= 1e4:
            assert all(np.isfinite(value) for value in selection.metrics.values()), (scale, bias)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_identical_rows_are_drawn_by_the_gumbels_alone(loss):
    learner, reference = models()
    for model in (learner, reference):
        for side in ("zimg", "ztxt"):
            model[side][:] = model[side][:1]
    gumbel = np.random.default_rng(3).gumbel(size=(N_CHUNKS, N)).astype(np.float32)
    spec = dataclasses.replace(BASE, loss=loss)
    got = run(spec, learner, reference, gumbel=tf.constant(gumbel)).positions.numpy()
    case = (loss, "learnability", learner, reference, gumbel)
    assert oracle.cut_violation(*case, got.reshape(N_CHUNKS, -1)) < 1e-3


def test_ties_go_to_the_lower_position():
    learner, reference = models()
    for model in (learner, reference):
        for side in ("zimg", "ztxt"):
            model[side][:] = model[side][:1]
    got = run(dataclasses.replace(BASE, policy="independent_top_k"), learner, reference)
    np.testing.assert_array_equal(got.positions.numpy(), np.arange(B_SUB))


def test_independent_policies_equal_their_definition():
    learner, reference = models(seed=4)
    gumbel = np.random.default_rng(5).gumbel(size=(N_CHUNKS, N)).astype(np.float32)
    for loss in ("sigmoid", "softmax"):
        s_ii = oracle.candidate_logits(loss, "learnability", learner, reference, [])
        for policy, logits in (
            ("independent_top_k", s_ii),
            ("independent_sampled", s_ii + gumbel[0]),
            ("uniform", gumbel[0]),
        ):
            spec = dataclasses.replace(BASE, policy=policy, loss=loss)
            got = run(spec, learner, reference, gumbel=tf.constant(gumbel)).positions.numpy()
            np.testing.assert_array_equal(got, np.argsort(-logits)[:B_SUB], policy)


def test_metrics_and_diagnostics_equal_the_oracle():
    learner, reference = models(seed=6)
    gumbel = np.random.default_rng(7).gumbel(size=(N_CHUNKS, N)).astype(np.float32)
    everyone = tf.ones([N], tf.bool)
    for loss in ("sigmoid", "softmax"):
        spec = dataclasses.replace(BASE, loss=loss)
        case = (loss, "learnability", learner, reference)
        got = run(spec, learner, reference, gumbel=tf.constant(gumbel))
        positions = got.positions.numpy()
        s_ii = oracle.candidate_logits(*case, [])
        chunks = positions.reshape(N_CHUNKS, -1)
        gains = [
            oracle.candidate_logits(*case, chunks[:c].ravel())[chunk]
            for c, chunk in enumerate(chunks)
        ]
        np.testing.assert_allclose(got.metrics["gain"], np.mean(gains), rtol=1e-4)
        of_the_set = oracle.set_score(*case, positions)
        np.testing.assert_allclose(got.metrics["joint_score"], of_the_set, rtol=1e-4)
        np.testing.assert_allclose(got.metrics["chosen_score"], s_ii[positions].mean(), rtol=1e-4)
        np.testing.assert_allclose(got.metrics["pool_score"], s_ii.mean(), rtol=1e-4)

        told = diagnostics(
            spec,
            got,
            *(
                Embeddings(**{k: tf.constant(v) for k, v in m.items()})
                for m in (learner, reference)
            ),
            everyone,
            SEED,
        )
        top_k = np.argsort(-s_ii)[:B_SUB]
        p = np.exp(s_ii - s_ii.max())
        p /= p.sum()
        entropy = -np.sum(p * np.log(p))
        expected = {
            "joint_score": oracle.set_score(*case, positions),
            "joint_score_independent_top_k": oracle.set_score(*case, top_k),
            "overlap_independent_top_k": len(set(top_k) & set(positions)) / B_SUB,
            "entropy": entropy,
            "effective_pool": np.exp(entropy),
            "s_ii": s_ii,
        }
        for name, value in expected.items():
            np.testing.assert_allclose(told[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
        uniform = select(
            dataclasses.replace(spec, policy="uniform"), None, None, everyone, SEED + [0x5EED, 0]
        )
        random_score = oracle.set_score(*case, uniform.positions.numpy())
        np.testing.assert_allclose(told["joint_score_uniform"], random_score, rtol=1e-3)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"policy": "best"}, "selection.policy"),
        ({"criterion": "loss"}, "selection.criterion"),
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"scope": "host"}, "selection.scope"),
        ({"sub_batch": 65}, "sub_batch = 65 is larger than"),
        ({"sub_batch": 0}, "sub_batch is 0"),
        ({"n_chunks": 5}, "sub_batch = 16 is not divisible by selection.n_chunks = 5"),
        ({"n_chunks": 0}, "n_chunks is 0"),
        ({"temperature": 0.0}, "temperature"),
        ({"learner_weight": 0.0}, "learner_weight is 0.0; expected a positive number"),
        ({"learner_weight": 0.5, "criterion": "hard_learner"}, "only learnability weighs"),
    ],
)
def test_wrong_specs_are_refused_by_name(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(BASE, **change)


def test_wrong_inputs_are_refused_by_name():
    learner, reference = (
        Embeddings(**{name: tf.constant(value) for name, value in model.items()})
        for model in models()
    )
    everyone = tf.ones([N], tf.bool)
    with pytest.raises(UserError, match="needs the reference's embeddings"):
        select(BASE, learner, None, everyone, SEED)
    with pytest.raises(UserError, match="valid has shape"):
        select(BASE, learner, reference, everyone[:10], SEED)
    short = learner._replace(zimg=learner.zimg[:10])
    with pytest.raises(UserError, match="learner.zimg has 10 rows"):
        select(BASE, short, reference, everyone, SEED)
    hard = dataclasses.replace(BASE, criterion="hard_learner")
    assert select(hard, learner, None, everyone, SEED).n_candidates == N
    uniform = dataclasses.replace(BASE, policy="uniform")
    assert select(uniform, None, None, everyone, SEED).n_candidates == N


def test_replicas_must_divide_the_sizes():
    with pytest.raises(UserError, match="super_batch = 64 is not divisible by the 3"):
        BASE.check_replicas(3)
    with pytest.raises(UserError, match="sub_batch = 20 is not divisible by the 8"):
        SelectionSpec(64, 20, n_chunks=4).check_replicas(8)
    with pytest.raises(UserError, match="a chunk has 4 examples"):
        dataclasses.replace(BASE, scope="replica").check_replicas(8)
