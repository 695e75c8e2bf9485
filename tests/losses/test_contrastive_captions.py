"""The losses where rows of one caption are no negatives, against dense float64 and autodiff."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from contrastive import contrastive_loss

from jest_tf.errors import UserError
from jest_tf.losses.contrastive import Teacher
from jest_tf.runtime.collectives import ReplicaCollectives
from jest_tf.selection import caption_hash
from jest_tf.training.resolution import Approximation, Resolution

N = 24
RNG = np.random.default_rng(3)
CAPTIONS = RNG.integers(0, 9, [N, 1]).astype(np.int32)
TEACHER_SCALE, WEIGHT = 9.0, 0.7


def embeddings(d: int) -> list[np.ndarray]:
    zs = RNG.standard_normal((2, N, d))
    zs[1] += 0.8 * zs[0]
    return list(zs / np.linalg.norm(zs, axis=-1, keepdims=True))


Z, TEACHER_Z = embeddings(8), embeddings(12)
INPUTS = [*Z, 10.0, -4.0]


def counted() -> np.ndarray:
    return (CAPTIONS != CAPTIONS.T) | np.eye(N, dtype=bool)


def dense(kind: str, distils: bool, zimg, ztxt, scale, bias) -> tf.Tensor:
    """The mean loss in float64, from its definition; pairs that do not count are left out."""
    keep, eye = tf.constant(counted()), tf.eye(N, dtype=tf.float64)
    logits = scale * tf.matmul(zimg, ztxt, transpose_b=True)
    masked = tf.where(keep, logits, -1e30)
    if kind == "sigmoid":
        nll = -tf.math.log_sigmoid((2 * eye - 1) * (logits + bias))
        loss = tf.reduce_sum(tf.where(keep, nll, 0.0)) / N
    else:
        both = tf.reduce_logsumexp(masked, 0) + tf.reduce_logsumexp(masked, 1)
        loss = tf.reduce_mean(0.5 * both - tf.linalg.diag_part(logits))
    if distils:
        theirs = tf.where(keep, TEACHER_SCALE * TEACHER_Z[0] @ tf.transpose(TEACHER_Z[1]), -1e30)
        for axis in (0, 1):
            wanted = tf.nn.softmax(theirs, axis)
            gap = tf.nn.log_softmax(theirs, axis) - tf.nn.log_softmax(masked, axis)
            loss += WEIGHT / (2 * N) * tf.reduce_sum(tf.where(keep, wanted * gap, 0.0))
    return loss


def value_and_gradients(loss, inputs) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = 3.0 * loss(*inputs)
    zero = tf.UnconnectedGradients.ZERO
    return [value, *tape.gradient(value, inputs, unconnected_gradients=zero)]


def truth(kind: str, distils: bool) -> list[tf.Tensor]:
    wide = [tf.constant(x, tf.float64) for x in INPUTS]
    return value_and_gradients(lambda *a: dense(kind, distils, *a), wide)


def options(kind: str, distils: bool, rows: slice = slice(None)) -> dict:
    teacher = [tf.constant(z[rows], tf.float32) for z in TEACHER_Z]
    return {
        "kind": kind,
        "captions": caption_hash(tf.constant(CAPTIONS[rows])),
        "teacher": Teacher(*teacher, tf.constant(TEACHER_SCALE), WEIGHT) if distils else None,
    }


def assert_equal(ours, expected):
    for mine, true in zip(ours, expected, strict=True):
        size = max(1.0, float(np.abs(true).max()))
        np.testing.assert_allclose(mine, true, atol=1e-5 * size, rtol=3e-5)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
@pytest.mark.parametrize(("distils", "block"), [(False, None), (False, 7), (True, 5)])
def test_tiles_equal_the_dense_loss(kind, distils, block):
    inputs = [tf.constant(x, tf.float32) for x in INPUTS]
    given = options(kind, distils)
    ours = value_and_gradients(lambda *a: contrastive_loss(*a, block=block, **given), inputs)
    assert_equal(ours, truth(kind, distils))


@pytest.mark.parametrize(("kind", "size"), [("sigmoid", 4), ("softmax", 2)])
def test_replicas_add_up_to_the_dense_loss(kind, size, logical_devices):
    strategy = tf.distribute.MirroredStrategy(
        logical_devices[:size], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    logits = [tf.constant(x, tf.float32) for x in INPUTS[2:]]

    def of_replica(*own):
        zimg, ztxt, timg, ttxt, captions = own
        teacher = Teacher(timg, ttxt, tf.constant(TEACHER_SCALE), WEIGHT)
        given = {"kind": kind, "teacher": teacher, "captions": captions, "block": 5}
        collectives = ReplicaCollectives()
        return value_and_gradients(
            lambda *a: contrastive_loss(*a, collectives=collectives, **given),
            [zimg, ztxt, *logits],
        )

    def rows_of_replica(values):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.split(values, size)[context.replica_id_in_sync_group]
        )

    per_row = [tf.constant(z, tf.float32) for z in (*Z, *TEACHER_Z)]
    per_row.append(caption_hash(tf.constant(CAPTIONS)))
    step = tf.function(lambda *a: strategy.run(of_replica, a), autograph=False)
    shares = step(*map(rows_of_replica, per_row))
    loss, dzimg, dztxt, dscale, dbias = map(strategy.experimental_local_results, shares)
    ours = [sum(loss), tf.concat(dzimg, 0), tf.concat(dztxt, 0), sum(dscale), sum(dbias)]
    assert_equal(ours, truth(kind, distils=True))


@pytest.mark.slow
def test_a_step_picks_and_trains_the_same_on_any_number_of_replicas():
    """Also in micro-batches, and where a part of the sub-batch trains on shorter texts."""
    batch = tiny.super_batch(0)
    batch["tokens"] = batch["tokens"][np.arange(tiny.SUPER_BATCH) // 8]  # four captions
    flexi = {"low_share": 0.5, "score": Approximation(Resolution(8, 8), n_tokens=4)}
    runs = {}
    for name, n_replicas, options in (
        ("negative", 1, {}),
        ("ignore", 1, {"same_caption": "ignore"}),
        ("on two", 2, {"same_caption": "ignore", "micro_batch": 3}),
    ):
        _, loop, plans = tiny.trainer(n_replicas, batches=[batch], schedule=flexi, **options)
        runs[name] = loop.run(plans.plan(0), 1)
    assert (runs["ignore"].picks == runs["on two"].picks).all()
    losses = {name: result.metrics["train/loss"] for name, result in runs.items()}
    assert losses["ignore"] == pytest.approx(losses["on two"], rel=1e-5)
    assert losses["ignore"] < 0.9 * losses["negative"]


def test_an_unknown_rule_is_refused():
    with pytest.raises(UserError, match="same_caption = 'drop': expected one of negative, ignore"):
        tiny.JestModel(tiny.encoder(0), None, tiny.spec(policy="uniform"), same_caption="drop")
