"""The loss in tiles and over replicas against the dense definition and autodiff."""

import numpy as np
import pytest
import tensorflow as tf
from contrastive import contrastive_loss

from jest_tf.errors import UserError
from jest_tf.runtime.collectives import ReplicaCollectives

KINDS = ["sigmoid", "softmax"]


def _embeddings(n: int, d: int = 8, seed: int = 0) -> list[tf.Tensor]:
    generator = np.random.default_rng(seed)
    zs = generator.standard_normal((2, n, d))
    zs[1] += 0.8 * zs[0]  # texts resemble their images, so that no loss term is negligible
    zs /= np.linalg.norm(zs, axis=-1, keepdims=True)
    return [tf.constant(z, tf.float32) for z in zs]


def _dense(zimg, ztxt, scale, bias, kind):
    """The plain loss, float64, from its definition."""
    logits = scale * tf.matmul(zimg, ztxt, transpose_b=True) + bias
    if kind == "sigmoid":
        sign = 2 * tf.eye(logits.shape[0], dtype=logits.dtype) - 1
        return -tf.reduce_sum(tf.math.log_sigmoid(sign * logits)) / logits.shape[0]
    labels = tf.range(logits.shape[0])
    losses = [
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels, z)
        for z in (logits, tf.transpose(logits))
    ]
    return tf.reduce_mean(losses)


def _value_and_gradients(loss, inputs):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        # Tripled, so that a gradient which ignores what comes from above is seen.
        value = 3.0 * loss(*inputs)
    return [value, *tape.gradient(value, inputs)]


def _truth(inputs, kind):
    wide = [tf.cast(x, tf.float64) for x in inputs]
    return _value_and_gradients(lambda *a: tf.cast(_dense(*a, kind), tf.float64), wide)


def _assert_equal(ours, truth, tolerance=1e-5):
    for mine, true in zip(ours, truth, strict=True):
        size = max(1.0, float(np.abs(true).max()))
        np.testing.assert_allclose(mine, true, atol=tolerance * size, rtol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [None, 24, 8, 7, 5, 1])
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (100.0, 3.0), (1.0, 0.0)])
def test_tiles_equal_the_dense_loss(kind, block, scale, bias):
    inputs = [*_embeddings(24), tf.constant(scale), tf.constant(bias)]
    ours = _value_and_gradients(lambda *a: contrastive_loss(*a, kind=kind, block=block), inputs)
    _assert_equal(ours, _truth(inputs, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_as_a_whole_it_is_the_same(kind):
    inputs = [*_embeddings(10), tf.constant(20.0), tf.constant(-3.0)]

    @tf.function(jit_compile=True, autograph=False)
    def compiled(*inputs):
        return _value_and_gradients(
            lambda *a: contrastive_loss(*a, kind=kind, block=4), list(inputs)
        )

    _assert_equal(compiled(*inputs), _truth(inputs, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n_replicas", "block"), [(2, 5), (4, None)])
def test_replicas_add_up_to_the_dense_loss(kind, n_replicas, block, logical_devices):
    inputs = [*_embeddings(24), tf.constant(10.0), tf.constant(-4.0)]
    # Collective ops fix a device's group for the life of the process; this way groups may vary.
    strategy = tf.distribute.MirroredStrategy(
        logical_devices[:n_replicas], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )

    def of_replica(zimg, ztxt):
        collectives = ReplicaCollectives()
        return _value_and_gradients(
            lambda *a: contrastive_loss(*a, kind=kind, collectives=collectives, block=block),
            [zimg, ztxt, *inputs[2:]],
        )

    def rows_of_replica(z):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.split(z, n_replicas)[context.replica_id_in_sync_group]
        )

    step = tf.function(lambda *a: strategy.run(of_replica, a), autograph=False)
    shares = step(rows_of_replica(inputs[0]), rows_of_replica(inputs[1]))
    loss, dzimg, dztxt, dscale, dbias = map(strategy.experimental_local_results, shares)
    ours = [sum(loss), tf.concat(dzimg, 0), tf.concat(dztxt, 0), sum(dscale), sum(dbias)]
    _assert_equal(ours, _truth(inputs, kind))


def test_a_well_matched_pair_keeps_its_tiny_loss_and_gradient():
    z = tf.eye(4, 8)
    inputs = [z, tf.identity(z), tf.constant(50.0), tf.constant(-25.0)]
    value, dzimg, *_ = _value_and_gradients(contrastive_loss, inputs)
    truth = _truth(inputs, "sigmoid")
    assert 0 < float(value) < 1e-9
    np.testing.assert_allclose(value, truth[0], rtol=1e-3)
    np.testing.assert_allclose(dzimg, truth[1], rtol=1e-3, atol=1e-20)


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_logits_stay_finite(kind):
    inputs = [*_embeddings(6), tf.constant(1e4), tf.constant(-1e3)]
    ours = _value_and_gradients(lambda *a: contrastive_loss(*a, kind=kind), inputs)
    assert all(np.all(np.isfinite(x)) for x in ours)
    _assert_equal(ours, _truth(inputs, kind), tolerance=1e-4)


def test_an_unknown_loss_is_refused():
    with pytest.raises(UserError, match="loss = 'hinge': expected one of sigmoid, softmax"):
        contrastive_loss(*_embeddings(2), tf.constant(1.0), tf.constant(0.0), kind="hinge")
