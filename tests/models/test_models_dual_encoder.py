"""The dual encoder as a whole: norms, seeds, depth, text length, precision, placement."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from jest_tf.errors import UserError
from jest_tf.models.dual_encoder import VARIANTS, DualEncoder, DualEncoderConfig
from jest_tf.models.text_transformer import shorten_tokens

SMALL = {"width": 32, "depth": 2, "mlp_dim": 64, "heads": 2}
CONFIG = DualEncoderConfig.from_variant(
    "mu", image_size=16, n_tokens=6, vocab_size=40, embed_dim=24, image=SMALL, text=SMALL
)


def _images(n: int = 3) -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).uniform(-1, 1, (n, 16, 16, 3)), tf.float32)


def _tokens(n: int = 3) -> tf.Tensor:
    return tf.constant(np.random.default_rng(1).integers(1, 40, (n, 6)), tf.int32)


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    return DualEncoder(CONFIG, seed=5)


def test_embeddings_have_unit_norm_and_logits_start_as_configured(model):
    zimg, ztxt = model((_images(), _tokens()))
    for z in (zimg, ztxt):
        assert z.dtype == tf.float32 and z.shape == (3, 24)
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(model.scale, 10.0, rtol=1e-6)
    np.testing.assert_allclose(model.bias, -10.0)
    other = DualEncoder(dataclasses.replace(CONFIG, init_scale=4.0, init_bias=-5.0))
    np.testing.assert_allclose([other.scale, other.bias], [4.0, -5.0], rtol=1e-6)


def test_all_weights_exist_before_any_call():
    fresh = DualEncoder(CONFIG)
    names = {weight.path for weight in fresh.trainable_variables}
    assert len(names) == len(fresh.trainable_variables)
    before = len(fresh.weights)
    fresh((_images(), _tokens()))
    assert len(fresh.weights) == before == len(fresh.trainable_variables)


def test_the_seed_decides_the_weights(model):
    same, other = DualEncoder(CONFIG, seed=5), DualEncoder(CONFIG, seed=6)
    drawn = 0
    for a, b, c in zip(model.weights, same.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)
        drawn += not np.array_equal(a, c)
    # Kernels, embeddings and MLP biases are drawn; the gains and other biases are constants.
    assert drawn > len(model.weights) // 2
    blocks = model.image_tower.blocks
    assert not np.array_equal(blocks[0].mlp.up.kernel, blocks[1].mlp.up.kernel)
    query, key, _ = np.split(np.asarray(blocks[0].attention.qkv_kernel), 3, axis=1)
    assert not np.array_equal(query, key)


def test_the_seed_decides_the_weights_in_a_strategy_too(model, logical_devices):
    strategy = tf.distribute.MirroredStrategy(logical_devices[:2])
    with strategy.scope():
        mirrored = DualEncoder(CONFIG, seed=5)
    for a, b in zip(model.weights, mirrored.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    images = _images(4)
    halves = strategy.experimental_distribute_values_from_function(
        lambda context: tf.split(images, 2)[context.replica_id_in_sync_group]
    )
    encode = tf.function(lambda x: strategy.run(mirrored.encode_image, [x]), autograph=False)
    got = tf.concat(strategy.experimental_local_results(encode(halves)), 0)
    np.testing.assert_allclose(got, model.encode_image(images), atol=1e-5)


def test_depth_runs_the_first_blocks_only(model):
    shallow = DualEncoder(
        dataclasses.replace(
            CONFIG,
            image=dataclasses.replace(CONFIG.image, depth=1),
            text=dataclasses.replace(CONFIG.text, depth=1),
        ),
        seed=5,
    )
    np.testing.assert_array_equal(
        model.encode_image(_images(), depth=1), shallow.encode_image(_images())
    )
    np.testing.assert_array_equal(
        model.encode_text(_tokens(), depth=1), shallow.encode_text(_tokens())
    )
    with pytest.raises(UserError, match="image depth = 3: expected 1 to 2"):
        model.encode_image(_images(), depth=3)


def test_shorter_text_keeps_the_pooled_token(model):
    tokens = tf.constant([[7, 8, 9, 1, 2, 3]])
    np.testing.assert_array_equal(shorten_tokens(tokens, 3), [[7, 8, 3]])
    np.testing.assert_array_equal(shorten_tokens(tokens, 6), tokens)
    np.testing.assert_array_equal(shorten_tokens(tokens, 1), [[3]])
    # The shortened text sees positions 0, 1 and 5: its tower is one with those positions alone.
    short = DualEncoder(dataclasses.replace(CONFIG, n_tokens=3), seed=5)
    positions = np.asarray(model.text_tower.positions)[[0, 1, 5]]
    short.text_tower.positions.assign(positions)
    cut = shorten_tokens(tokens, 3)
    np.testing.assert_allclose(model.encode_text(cut), short.encode_text(cut), atol=1e-6)
    with pytest.raises(UserError, match="token rows of length 7"):
        model.encode_text(tf.zeros([1, 7], tf.int32))


def test_text_order_matters_and_every_token_is_seen(model):
    tokens = _tokens(1)
    z = model.encode_text(tokens)
    for place in range(6):
        changed = tf.tensor_scatter_nd_update(tokens, [[0, place]], [0])
        assert np.abs(z - model.encode_text(changed)).max() > 1e-4


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_in_a_graph_equal_eager_ones(model, jit_compile):
    weights = [weight.value for weight in model.trainable_variables]

    def gradients():
        with tf.GradientTape() as tape:
            zimg, ztxt = model((_images(), _tokens()))
            loss = tf.reduce_sum(tf.square(tf.matmul(zimg, ztxt, transpose_b=True) - 0.3))
        found = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(gradient) for gradient in found]

    graph = tf.function(gradients, jit_compile=jit_compile, autograph=False)()
    for a, b in zip(graph, gradients(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_bfloat16_towers_give_float32_embeddings_near_the_float32_ones(model):
    mixed = DualEncoder(CONFIG, seed=5, dtype="mixed_bfloat16")
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    for got, true in zip(mixed((_images(), _tokens())), model((_images(), _tokens())), strict=True):
        assert got.dtype == tf.float32
        np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1.0, atol=1e-5)
        np.testing.assert_allclose(np.sum(got * true, axis=1), 1.0, atol=2e-3)


def test_the_config_survives_json_and_names_its_mistakes():
    for config in [CONFIG, *VARIANTS.values()]:
        assert DualEncoderConfig.from_variant("custom", **dataclasses.asdict(config)) == config
    with pytest.raises(UserError, match="expected one of nano, mu, Ti, S, B, L"):
        DualEncoderConfig.from_variant("XL")
    with pytest.raises(UserError, match="model.image_size = 50 is not divisible"):
        DualEncoderConfig.from_variant("mu", image_size=50)
    with pytest.raises(UserError, match="model.text.width = 100 is not divisible"):
        DualEncoderConfig.from_variant("mu", text={"width": 100, "heads": 3})
    with pytest.raises(UserError, match="unknown model setting imagesize"):
        DualEncoderConfig.from_variant("mu", imagesize=50)
    with pytest.raises(UserError, match=r"model.image.depth = 0"):
        DualEncoderConfig.from_variant("mu", image={"depth": 0})
