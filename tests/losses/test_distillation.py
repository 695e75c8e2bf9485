"""Distillation in tiles and over replicas against the dense divergence and autodiff."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from contrastive import contrastive_loss

from jest_tf.errors import UserError
from jest_tf.losses.contrastive import Teacher
from jest_tf.runtime.collectives import ReplicaCollectives
from jest_tf.selection import Embeddings
from jest_tf.training.jest_model import Part

N, WEIGHT, TEACHER_SCALE = 24, 0.7, 9.0


def _embeddings(d: int, seed: int) -> list[tf.Tensor]:
    zs = np.random.default_rng(seed).standard_normal((2, N, d))
    zs[1] += 0.8 * zs[0]  # texts resemble their images
    zs /= np.linalg.norm(zs, axis=-1, keepdims=True)
    return [tf.constant(z, tf.float32) for z in zs]


INPUTS = [*_embeddings(8, 0), tf.constant(10.0), tf.constant(-4.0)]
TEACHER = Teacher(*_embeddings(12, 1), tf.constant(TEACHER_SCALE), WEIGHT)


def dense_divergence(zimg, ztxt, scale, teacher: Teacher) -> tf.Tensor:
    """The mean of both directions from TensorFlow's cross entropy, in float64, unweighted."""
    zimg, ztxt, timg, ttxt = (tf.cast(z, tf.float64) for z in (zimg, ztxt, *teacher[:2]))
    ours = tf.cast(scale, tf.float64) * zimg @ tf.transpose(ztxt)
    theirs = tf.cast(teacher.scale, tf.float64) * timg @ tf.transpose(ttxt)
    cross_entropy = tf.nn.softmax_cross_entropy_with_logits
    directions = (theirs, ours), (tf.transpose(theirs), tf.transpose(ours))
    divergences = [cross_entropy(tf.nn.softmax(t), s) - cross_entropy(tf.nn.softmax(t), t)
                   for t, s in directions]  # fmt: skip
    return tf.reduce_mean(divergences)


def _value_and_gradients(loss, inputs) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = 3.0 * tf.cast(loss(*inputs), tf.float32)
    gradients = tape.gradient(value, inputs, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [value, *gradients]


def _truth(kind="sigmoid") -> list[tf.Tensor]:
    plain = _value_and_gradients(lambda *a: contrastive_loss(*a, kind=kind), INPUTS)
    more = _value_and_gradients(
        lambda zimg, ztxt, scale, bias: WEIGHT * dense_divergence(zimg, ztxt, scale, TEACHER),
        INPUTS,
    )
    return [a + b for a, b in zip(plain, more, strict=True)]


def _assert_equal(ours, truth):
    for mine, true in zip(ours, truth, strict=True):
        size = max(1.0, float(np.abs(true).max()))
        np.testing.assert_allclose(mine, true, atol=1e-5 * size, rtol=3e-5)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
@pytest.mark.parametrize("block", [None, 7, 1])
def test_tiles_equal_the_dense_divergence(kind, block):
    ours = _value_and_gradients(
        lambda *a: contrastive_loss(*a, kind=kind, block=block, teacher=TEACHER), INPUTS
    )
    _assert_equal(ours, _truth(kind))


def test_a_learner_that_equals_its_teacher_has_nothing_to_learn():
    same = Teacher(*INPUTS[:2], INPUTS[2], 100.0)
    plain = _value_and_gradients(contrastive_loss, INPUTS)
    _assert_equal(
        _value_and_gradients(lambda *a: contrastive_loss(*a, teacher=same), INPUTS), plain
    )


@pytest.mark.parametrize(("n_replicas", "block"), [(2, 5), (4, None)])
def test_replicas_add_up_to_the_dense_divergence(n_replicas, block, logical_devices):
    strategy = tf.distribute.MirroredStrategy(
        logical_devices[:n_replicas], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )

    def of_replica(zimg, ztxt, timg, ttxt):
        return _value_and_gradients(
            lambda *a: contrastive_loss(
                *a,
                collectives=ReplicaCollectives(),
                block=block,
                teacher=Teacher(timg, ttxt, TEACHER.scale, WEIGHT),
            ),
            [zimg, ztxt, *INPUTS[2:]],
        )

    def rows_of_replica(z):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.split(z, n_replicas)[context.replica_id_in_sync_group]
        )

    rows = [rows_of_replica(z) for z in (*INPUTS[:2], *TEACHER[:2])]
    shares = tf.function(lambda *a: strategy.run(of_replica, a), autograph=False)(*rows)
    loss, dzimg, dztxt, dscale, dbias = map(strategy.experimental_local_results, shares)
    ours = [sum(loss), tf.concat(dzimg, 0), tf.concat(dztxt, 0), sum(dscale), sum(dbias)]
    _assert_equal(ours, _truth())


def _chosen(model, batch: dict, picks: np.ndarray):
    """Embeddings of the picked rows by a fresh learner and by the reference, in pick order."""
    position = {row_id: at for at, row_id in enumerate(batch["id"].tolist())}
    rows = [position[row_id] for row_id in picks.tolist()]
    images = tf.image.resize(batch["image"][rows], [16, 16], antialias=True) / 127.5 - 1.0
    tokens = batch["tokens"][rows]
    return [
        (m.encode_image(images), m.encode_text(tokens)) for m in (tiny.encoder(0), model.reference)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_replicas", "options"),
    [
        (2, {}),
        (1, {"micro_batch": 3, "policy": tiny.spec(criterion="hard_learner")}),
        (1, {"policy": tiny.spec(policy="uniform")}),
    ],
)
def test_a_step_adds_the_divergence_of_what_it_chose(n_replicas, options):
    batch = tiny.super_batch(0)
    _, plain, schedule = tiny.trainer(n_replicas, batches=[batch], **options)
    model, host_loop, _ = tiny.trainer(n_replicas, batches=[batch], distillation=WEIGHT, **options)
    before, after = plain.run(schedule.plan(0), 1), host_loop.run(schedule.plan(0), 1)
    assert (before.picks == after.picks).all(), "what is chosen does not depend on it"
    diagnosed = "joint_score" in host_loop.diagnose(after.last)
    assert diagnosed == (model.spec.policy != "uniform")
    learner, reference = _chosen(model, batch, after.picks[0])
    scale = tiny.encoder(0).scale
    more = dense_divergence(*learner, scale, Teacher(*reference, model.reference.scale, WEIGHT))
    difference = after.metrics["train/loss"] - before.metrics["train/loss"]
    assert WEIGHT * float(more) > 1e-3
    np.testing.assert_allclose(difference, WEIGHT * more, rtol=2e-3)


def test_the_teacher_rows_stand_in_the_order_of_the_parts():
    model, _, schedule = tiny.trainer(distillation=WEIGHT)
    at = schedule.plan(0).train[0].at
    parts = [
        Part(at, {"teacher_zimg": tf.fill([n, 20], mark), "teacher_ztxt": tf.fill([n, 20], -mark)})
        for n, mark in ((3, 1.0), (2, 2.0))
    ]
    reference = Embeddings(None, None, tf.constant(9.0), tf.constant(0.0))
    teacher = model.teacher(parts, reference)
    assert teacher.zimg[:, 0].numpy().tolist() == [1, 1, 1, 2, 2]
    assert teacher.ztxt[:, 0].numpy().tolist() == [-1, -1, -1, -2, -2]
    assert (float(teacher.scale), teacher.weight) == (9.0, WEIGHT)


def test_distillation_wants_a_reference():
    with pytest.raises(UserError, match="no reference to distil from"):
        tiny.JestModel(tiny.encoder(0), None, tiny.spec(), distillation=0.5)
