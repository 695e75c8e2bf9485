"""Two-pass gradients against the plain gradient of the whole batch, by autodiff."""

import numpy as np
import pytest
import tensorflow as tf
from contrastive import contrastive_loss

from jest_tf.losses import grad_cache
from jest_tf.losses.grad_cache import EmbeddedPart, embed_in_micro_batches
from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig
from jest_tf.runtime.collectives import ReplicaCollectives

TOWER = {"width": 16, "depth": 1, "heads": 2, "mlp_dim": 32}
CONFIG = DualEncoderConfig.from_variant(
    "mu", image_size=16, n_tokens=4, vocab_size=30, embed_dim=8, init_bias=-3.0,
    image=TOWER, text=TOWER,
)  # fmt: skip
N = 14


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    return DualEncoder(CONFIG, seed=2)


@pytest.fixture(scope="module")
def batch() -> dict[str, tf.Tensor]:
    generator = np.random.default_rng(0)
    return {
        "image": tf.constant(generator.uniform(-1, 1, (N, 16, 16, 3)), tf.float32),
        "tokens": tf.constant(generator.integers(0, 30, (N, 4)), tf.int32),
    }


def _embed(model: DualEncoder, patch_size: int = 8):
    def embed(rows):
        return model.encode_image(rows["image"], patch_size), model.encode_text(rows["tokens"])

    return embed


def _logits(model: DualEncoder):
    return lambda: (model.scale, tf.convert_to_tensor(model.bias.value))


def _variables(model: DualEncoder) -> list[tf.Variable]:
    return [variable.value for variable in model.trainable_variables]


def _plain(model: DualEncoder, parts, kind):
    """The whole batch at once."""
    with tf.GradientTape() as tape:
        embedded = [part.embed(part.batch) for part in parts]
        zimg, ztxt = (tf.concat(side, 0) for side in zip(*embedded, strict=True))
        loss = contrastive_loss(zimg, ztxt, *_logits(model)(), kind=kind)
    gradients = tape.gradient(loss, _variables(model))
    return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]


def _assert_equal(ours, truth):
    np.testing.assert_allclose(ours[0], truth[0], rtol=1e-5)
    assert len(ours[1]) == len(truth[1])
    for mine, true in zip(ours[1], truth[1], strict=True):
        size = max(float(np.abs(true).max()), 1e-3)
        np.testing.assert_allclose(mine, true, atol=2e-5 * size)


@pytest.mark.parametrize("micro_batch", [0, 1, 5, 7, 20])
def test_micro_batched_embeddings_equal_plain_ones(model, batch, micro_batch):
    got = embed_in_micro_batches(_embed(model), batch, micro_batch)
    for mine, true in zip(got, _embed(model)(batch), strict=True):
        assert mine.shape == (N, 8)
        np.testing.assert_allclose(mine, true, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "micro_batch", "jit_compile"),
    [("sigmoid", 5, True), ("softmax", 7, False), ("sigmoid", 20, False), ("sigmoid", 0, True)],
)
def test_gradients_equal_the_plain_ones(model, batch, kind, micro_batch, jit_compile):
    @tf.function(jit_compile=jit_compile, autograph=False)
    def two_passes(batch):
        return grad_cache.gradients(
            [EmbeddedPart(_embed(model), batch)], _logits(model), _variables(model),
            micro_batch=micro_batch, kind=kind, block=4,
        )  # fmt: skip

    _assert_equal(two_passes(batch), _plain(model, [EmbeddedPart(_embed(model), batch)], kind))


def test_parts_at_two_resolutions_share_one_loss(model, batch):
    def parts(batch):
        cut = [tf.nest.map_structure(lambda x, s=s: x[s], batch) for s in (slice(6), slice(6, N))]
        return [EmbeddedPart(_embed(model, 16), cut[0]), EmbeddedPart(_embed(model), cut[1])]

    ours = tf.function(
        lambda batch: grad_cache.gradients(
            parts(batch), _logits(model), _variables(model), micro_batch=4
        ),
        autograph=False,
    )(batch)
    _assert_equal(ours, _plain(model, parts(batch), "sigmoid"))


def test_replicas_add_up_to_the_plain_gradient(batch, logical_devices):
    strategy = tf.distribute.MirroredStrategy(
        logical_devices[:2], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        mirrored = DualEncoder(CONFIG, seed=2)
    plain = DualEncoder(CONFIG, seed=2)

    def of_replica(rows):
        return grad_cache.gradients(
            [EmbeddedPart(_embed(mirrored), rows)], _logits(mirrored), _variables(mirrored),
            micro_batch=3, collectives=ReplicaCollectives(),
        )  # fmt: skip

    halves = strategy.experimental_distribute_values_from_function(
        lambda context: tf.nest.map_structure(
            lambda x: tf.split(x, 2)[context.replica_id_in_sync_group], batch
        )
    )
    step = tf.function(lambda rows: strategy.run(of_replica, [rows]), autograph=False)
    loss, gradients = step(halves)
    total = [sum(strategy.experimental_local_results(x)) for x in (loss, *gradients)]
    truth = _plain(plain, [EmbeddedPart(_embed(plain), batch)], "sigmoid")
    _assert_equal((total[0], total[1:]), truth)
