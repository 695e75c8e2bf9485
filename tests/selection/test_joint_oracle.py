"""Joint selection against the float64 oracle, over random sizes, scales and precisions."""

import numpy as np
import oracle
import pytest
import tensorflow as tf

from jest_tf.collectives import LOCAL, LocalCollectives
from jest_tf.devices import GIB, tile_values
from jest_tf.selection import Embeddings, SelectionSpec, joint, joint_score, scores, select
from jest_tf.selection.scores import terms

# (super_batch, sub_batch, n_chunks, learner d, reference d): N of 1, 2, 4, 16 and b, odd sizes, and
# candidates that do not fill whole tiles.
SIZES = [
    (100, 20, 1, 16, 16),
    (75, 30, 2, 7, 12),
    (360, 36, 4, 24, 8),
    (160, 80, 16, 16, 16),
    (64, 12, 12, 8, 8),
]
# Name in the oracle -> fields of the spec.
CRITERIA = {
    "learnability": {},
    "half_learnability": {"learner_weight": 0.5},
    "hard_learner": {"criterion": "hard_learner"},
    "easy_reference": {"criterion": "easy_reference"},
}
SITUATIONS = [  # (scale, bias, near-duplicates)
    (1.0, 0.0, False),
    (10.0, -10.0, False),
    (10.0, -4.0, True),
    (60.0, -12.0, False),
    (200.0, -30.0, True),
]


def situations(size, seed):
    n, _, n_chunks, d_learner, d_reference = size
    rng = np.random.default_rng(seed)
    for scale, bias, duplicates in SITUATIONS:
        learner = oracle.random_model(rng, n, d_learner, scale, bias, duplicates=duplicates)
        reference = oracle.random_model(rng, n, d_reference, 0.7 * scale, bias - 1, noise=0.5)
        yield learner, reference, rng.gumbel(size=(n_chunks, n)).astype(np.float32)


def tensors(model, dtype=tf.float32):
    cast = {side: tf.cast(model[side], dtype) for side in ("zimg", "ztxt")}
    return Embeddings(**cast, scale=tf.constant(model["scale"]), bias=tf.constant(model["bias"]))


def run(spec, learner, reference, gumbel, dtype=tf.float32, collectives=LOCAL):
    everyone = tf.ones([spec.super_batch], tf.bool)
    learner, reference = tensors(learner, dtype), tensors(reference, dtype)
    given = everyone, tf.constant([0, 0]), collectives
    return select(spec, learner, reference, *given, gumbel=tf.constant(gumbel))


def largest_logit(spec, learner, reference, positions, criterion="learnability"):
    logits = oracle.candidate_logits(spec.loss, criterion, learner, reference, positions)
    return max(1.0, np.abs(logits).max())


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_picks_are_those_of_the_dense_listing(size, loss):
    """All criteria at one size here, and at every size of the golden cases."""
    n, b, n_chunks, *_ = size
    flips = 0
    for criterion in CRITERIA if size == SIZES[1] else ["learnability"]:
        spec = SelectionSpec(n, b, loss=loss, n_chunks=n_chunks, **CRITERIA[criterion])
        for learner, reference, gumbel in situations(size, seed=n):
            case = (loss, criterion, learner, reference, gumbel)
            positions = run(spec, learner, reference, gumbel).positions.numpy()
            chunks = positions.reshape(n_chunks, -1)
            largest = largest_logit(spec, learner, reference, positions, criterion)
            assert oracle.cut_violation(*case, chunks) <= oracle.NEAR_TIE * largest
            flips += set(positions) != set(oracle.joint_picks(*case, spec.chunk_size).ravel())
    assert flips == 0  # These seeds have no tie within float32's reach.


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_bfloat16_inputs_are_used_as_they_are(loss):
    """Rounded embeddings give exactly the picks of the listing on the rounded embeddings."""
    size = SIZES[2]
    spec = SelectionSpec(size[0], size[1], loss=loss, n_chunks=size[2])
    for learner, reference, gumbel in situations(size, seed=1):
        for model in (learner, reference):
            for side in ("zimg", "ztxt"):
                model[side] = tf.cast(tf.cast(model[side], tf.bfloat16), tf.float32).numpy()
        got = run(spec, learner, reference, gumbel, tf.bfloat16).positions.numpy()
        chunks = got.reshape(spec.n_chunks, -1)
        tolerance = oracle.NEAR_TIE * largest_logit(spec, learner, reference, got)
        case = (loss, "learnability", learner, reference, gumbel)
        assert oracle.cut_violation(*case, chunks) <= tolerance


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_passes_give_the_same_state_as_one(loss):
    """Where the block is too large, candidates go through in slices; here 1 pass, 4, and 8."""
    (learner, reference, _), *_ = situations(SIZES[3], seed=6)
    models = terms(SelectionSpec(1, 1, n_chunks=1), tensors(learner), tensors(reference))
    picked = [Embeddings(z.zimg[:10], z.ztxt[:10], z.scale, z.bias) for _, z in models]
    state = scores.LOSSES[loss].start(models)
    states = []
    for room in (2**22, 2 * 2 * 20 * 16, 2):
        states.append(joint.add_chunk(loss, state, models, picked, 20, room).numpy())
    for state in states[1:]:  # up to the order of the sums in the last bit
        np.testing.assert_allclose(state, states[0], rtol=5e-7)


def test_picks_do_not_depend_on_the_memory_of_the_device():
    """A device says how many tiles go through at once; here all 8, and one after the other."""
    size = (1024, 64, 4, 8, 8)
    spec = SelectionSpec(*size[:2], n_chunks=size[2])
    learner, reference, gumbel = next(situations(size, seed=8))
    small, large = (
        run(spec, learner, reference, gumbel, collectives=LocalCollectives(room)).positions.numpy()
        for room in (2, tile_values(80 * GIB))
    )
    np.testing.assert_array_equal(small, large)
    tolerance = oracle.NEAR_TIE * largest_logit(spec, learner, reference, large)
    case = ("sigmoid", "learnability", learner, reference, gumbel)
    assert oracle.cut_violation(*case, large.reshape(4, -1)) <= tolerance


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_score_of_the_chosen_is_the_same_a_few_at_a_time(loss, monkeypatch):
    (learner, reference, _), *_ = situations(SIZES[2], seed=7)
    models = terms(SelectionSpec(1, 1, n_chunks=1), tensors(learner), tensors(reference))
    state = scores.LOSSES[loss].start(models)
    positions = tf.random.experimental.stateless_shuffle(tf.range(state.shape[1]), [0, 1])[:36]
    members = tf.scatter_nd(positions[:, None], tf.ones([36], tf.bool), [state.shape[1]])
    everyone = tf.ones_like(members)
    rows = joint.own_rows([z for _, z in models], everyone, positions[:9], 0)
    set_score = joint.score_of_set.python_function
    monkeypatch.setattr(joint, "MIN_TILE", 4)
    totals = []
    for at_a_time in (36, 8):  # 1 part and 6 of 6
        monkeypatch.setattr(joint, "MAX_MEMBERS", at_a_time)
        totals.append(set_score(loss, models, state, everyone, members, positions, rows, 0))
    np.testing.assert_allclose(totals[1], totals[0], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.2, 5.0])
def test_temperature_divides_the_logits(temperature):
    size = SIZES[1]
    spec = SelectionSpec(size[0], size[1], n_chunks=size[2], temperature=temperature)
    learner, reference, gumbel = next(iter(situations(size, seed=2)))
    got = run(spec, learner, reference, gumbel).positions.numpy().reshape(spec.n_chunks, -1)
    case = ("sigmoid", "learnability", learner, reference, gumbel, spec.chunk_size)
    np.testing.assert_array_equal(got, oracle.joint_picks(*case, temperature=temperature))


def test_greedy_ignores_the_draw():
    size = SIZES[1]
    spec = SelectionSpec(size[0], size[1], n_chunks=size[2], greedy=True)
    learner, reference, gumbel = list(situations(size, seed=2))[1]
    got = run(spec, learner, reference, gumbel).positions.numpy().reshape(spec.n_chunks, -1)
    case = ("sigmoid", "learnability", learner, reference, 0 * gumbel, spec.chunk_size)
    np.testing.assert_array_equal(got, oracle.joint_picks(*case))


def test_permuting_candidates_permutes_the_picks():
    size = SIZES[2]
    spec = SelectionSpec(size[0], size[1], n_chunks=size[2])
    learner, reference, gumbel = list(situations(size, seed=3))[1]
    order = np.random.default_rng(0).permutation(size[0])
    straight = run(spec, learner, reference, gumbel).positions.numpy()
    permuted = [
        {k: v[order] if v.ndim else v for k, v in model.items()} for model in (learner, reference)
    ]
    got = run(spec, *permuted, gumbel[:, order]).positions.numpy()
    np.testing.assert_array_equal(order[got], straight)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_equal_models_give_uniform_picks(loss):
    """Nothing is learnable, so each chunk is the best of the draw alone."""
    size = SIZES[2]
    spec = SelectionSpec(size[0], size[1], loss=loss, n_chunks=size[2])
    learner, _, gumbel = list(situations(size, seed=4))[3]
    got = run(spec, learner, learner, gumbel).positions.numpy().reshape(spec.n_chunks, -1)
    allowed = np.ones(size[0], bool)
    for chunk, draw in zip(got, gumbel, strict=True):
        expected = np.argsort(-np.where(allowed, draw, -np.inf))[: spec.chunk_size]
        np.testing.assert_array_equal(chunk, expected)
        allowed[expected] = False


def test_joint_differs_from_independent_where_it_must():
    """False negatives: rows 0-7 look best one by one, but the reference cannot tell them apart.

    A batch of them holds pairs that no model can learn (S_ij far below 0), so joint selection takes
    one and goes on with the slightly less learnable rows 8-15; independent selection takes four.
    """
    n = 16
    eye = np.eye(n, dtype=np.float32)
    twins = eye.copy()
    twins[:8] = eye[0]
    weaker = np.where(np.arange(n) < 8, 0.50, 0.52).astype(np.float32)[:, None] * eye
    sizes = {"scale": np.float32(10), "bias": np.float32(-5)}
    learner = {"zimg": eye, "ztxt": weaker, **sizes}
    reference = {"zimg": twins, "ztxt": twins, **sizes}
    gumbel = np.zeros([4, n], np.float32)
    sizes = {"super_batch": n, "sub_batch": 4, "n_chunks": 4, "greedy": True}
    models = [learner, reference]
    single = run(SelectionSpec(policy="independent_top_k", **sizes), *models, gumbel)
    joint = run(SelectionSpec(**sizes), *models, gumbel)
    assert set(single.positions.numpy()) == {0, 1, 2, 3}
    assert joint.positions.numpy().tolist() == [0, 8, 9, 10]
    score = [
        oracle.set_score("sigmoid", "learnability", *models, chosen.positions.numpy())
        for chosen in (joint, single)
    ]
    assert score[0] > score[1] + 0.5


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_joint_score_is_the_loss_of_the_set(loss):
    size = SIZES[1]
    for criterion in CRITERIA:
        spec = SelectionSpec(size[0], size[1], loss=loss, n_chunks=size[2], **CRITERIA[criterion])
        for learner, reference, _ in situations(size, seed=5):
            members = np.random.default_rng(1).permutation(size[0])[: size[1]].astype(np.int32)
            models = terms(spec, tensors(learner), tensors(reference))
            everyone = tf.ones([size[0]], tf.bool)
            got = joint_score(spec, tf.constant(members), models, everyone)
            expected = oracle.set_score(loss, criterion, learner, reference, members)
            np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)
