"""Rows of one caption are no negatives of each other: pair terms against the float64 oracle."""

import numpy as np
import oracle
import pytest
import tensorflow as tf

from jest_tf.errors import UserError
from jest_tf.ops.captions import same_caption
from jest_tf.runtime.collectives import ReplicaCollectives
from jest_tf.selection import Embeddings, SelectionSpec, caption_hash, joint_score, select
from jest_tf.selection.scores import terms

N, B, CHUNKS = 96, 24, 4
CRITERIA = {
    "learnability": {},
    "half_learnability": {"learner_weight": 0.5},
    "hard_learner": {"criterion": "hard_learner"},
    "easy_reference": {"criterion": "easy_reference"},
}


def models(seed: int = 0, n_captions: int = 12) -> tuple[dict, dict, np.ndarray]:
    """Learner, reference and draws; each caption is that of about eight rows."""
    rng = np.random.default_rng(seed)
    captions = rng.integers(0, n_captions, N)
    pair = (
        oracle.random_model(rng, N, 16, 10.0, -4.0),
        oracle.random_model(rng, N, 12, 8.0, -5.0, noise=0.5),
    )
    pair = tuple(model | {"captions": captions} for model in pair)
    return *pair, rng.gumbel(size=(CHUNKS, N)).astype(np.float32)


def tensors(model: dict, rows: slice = slice(None)) -> Embeddings:
    sides = {side: tf.constant(model[side][rows]) for side in ("zimg", "ztxt")}
    tokens = tf.constant(model["captions"][rows, None].astype(np.int32))
    logits = {name: tf.constant(model[name]) for name in ("scale", "bias")}
    return Embeddings(**sides, **logits, captions=caption_hash(tokens))


def run(spec: SelectionSpec, learner: dict, reference: dict, gumbel: np.ndarray):
    both = tensors(learner), tensors(reference)
    return select(spec, *both, tf.ones([N], tf.bool), tf.constant([0, 0]), gumbel=gumbel)


def spec_of(loss: str, **overrides) -> SelectionSpec:
    return SelectionSpec(N, B, loss=loss, n_chunks=CHUNKS, **overrides)


@pytest.mark.parametrize(
    ("loss", "criterion"),
    [
        ("sigmoid", "learnability"),
        ("sigmoid", "hard_learner"),
        ("softmax", "half_learnability"),
        ("softmax", "easy_reference"),
    ],
)
def test_picks_and_scores_are_those_of_the_dense_listing(loss, criterion):
    spec = spec_of(loss, **CRITERIA[criterion])
    learner, reference, gumbel = models()
    case = (loss, criterion, learner, reference)
    selection = run(spec, learner, reference, gumbel)
    positions = selection.positions.numpy()
    largest = max(1.0, np.abs(oracle.candidate_logits(*case, positions)).max())
    chunks = positions.reshape(CHUNKS, -1)
    assert oracle.cut_violation(*case, gumbel, chunks) <= oracle.NEAR_TIE * largest
    expected = oracle.set_score(*case, positions)
    np.testing.assert_allclose(selection.metrics["joint_score"], expected, rtol=2e-5, atol=2e-5)
    signed = terms(spec, tensors(learner), tensors(reference))
    again = joint_score(spec, selection.positions, signed, tf.ones([N], tf.bool))
    np.testing.assert_allclose(again, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_where_all_share_one_caption_no_pair_counts(loss):
    """Sigmoid: joint selection is one draw after another by S_ii. Softmax: nothing is learnable."""
    learner, reference, gumbel = models(n_captions=1)
    case = (loss, "learnability", learner, reference)
    got = run(spec_of(loss), learner, reference, gumbel).positions.numpy().reshape(CHUNKS, -1)
    assert oracle.cut_violation(*case, gumbel, got) <= 1e-4
    if loss == "softmax":
        assert np.abs(oracle.candidate_logits(*case, got.ravel())).max() == 0


def test_distinct_captions_change_nothing():
    learner, reference, gumbel = models()
    for model in (learner, reference):
        model["captions"] = np.arange(N)
    plain = [tensors(model)._replace(captions=None) for model in (learner, reference)]
    spec = spec_of("sigmoid")
    everyone, seed = tf.ones([N], tf.bool), tf.constant([0, 0])
    expected = select(spec, *plain, everyone, seed, gumbel=gumbel)
    found = run(spec, learner, reference, gumbel)
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_allclose(
        found.metrics["joint_score"], expected.metrics["joint_score"], rtol=1e-5
    )


@pytest.mark.parametrize(("size", "loss"), [(2, "sigmoid"), (4, "softmax")])
def test_replicas_pick_what_one_does(logical_devices, size, loss):
    learner, reference, gumbel = models(seed=1)
    spec = spec_of(loss)
    strategy = tf.distribute.MirroredStrategy(
        logical_devices[:size], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )

    def rows_of_replica(values: tf.Tensor):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.split(values, size)[context.replica_id_in_sync_group]
        )

    def per_replica(z: Embeddings) -> Embeddings:
        return z.map_rows(rows_of_replica)

    def step(learner, reference):
        everyone = tf.ones([N // size], tf.bool)
        seed = tf.constant([0, 0])
        selection = select(
            spec, learner, reference, everyone, seed, ReplicaCollectives(), tf.constant(gumbel)
        )
        return selection.positions, selection.metrics["joint_score"]

    both = per_replica(tensors(learner)), per_replica(tensors(reference))
    outputs = tf.function(lambda *a: strategy.run(step, a), autograph=False)(*both)
    expected = run(spec, learner, reference, gumbel)
    for positions, score in zip(*map(strategy.experimental_local_results, outputs), strict=True):
        np.testing.assert_array_equal(positions, expected.positions)
        np.testing.assert_allclose(score, expected.metrics["joint_score"], rtol=1e-5)


def test_captions_with_one_model_alone_are_refused():
    learner, reference, _ = models()
    both = tensors(learner), tensors(reference)._replace(captions=None)
    with pytest.raises(UserError, match="captions are given with one model's embeddings alone"):
        select(spec_of("sigmoid"), *both, tf.ones([N], tf.bool), tf.constant([0, 0]))


def test_hashes_tell_token_rows_apart_and_nothing_else():
    tokens = np.random.default_rng(0).integers(0, 32_000, [2000, 16]).astype(np.int32)
    tokens[1000:] = tokens[:1000]
    tokens[1500:, -1] += 1
    hashes = caption_hash(tf.constant(tokens))
    same = same_caption(hashes, hashes).numpy()
    expected = np.eye(2000, dtype=bool)
    for i in range(500):
        expected[i, 1000 + i] = expected[1000 + i, i] = True
    np.testing.assert_array_equal(same, expected)
    assert hashes.numpy().max() < 2**24 and (hashes.numpy() % 1 == 0).all()
