"""Both towers against keras-hub's SigLIP with the weights copied across."""

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig, TowerConfig

TOWER = TowerConfig(width=48, depth=3, heads=4, mlp_dim=96)
CONFIG = DualEncoderConfig(
    image_size=32, patch_size=8, n_tokens=10, vocab_size=50, embed_dim=48, image=TOWER, text=TOWER
)


@pytest.fixture(scope="module")
def ours() -> DualEncoder:
    model = DualEncoder(CONFIG, seed=3)
    # Zero biases and unit gains would hide a swap of weights, so every value is made different.
    generator = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(weight + 0.1 * generator.standard_normal(weight.shape))
    return model


@pytest.fixture(scope="module")
def theirs() -> keras_hub.models.SigLIPBackbone:
    sizes = {
        "hidden_dim": TOWER.width,
        "num_layers": TOWER.depth,
        "num_heads": TOWER.heads,
        "intermediate_dim": TOWER.mlp_dim,
    }
    return keras_hub.models.SigLIPBackbone(
        vision_encoder=keras_hub.models.SigLIPVisionEncoder(
            patch_size=CONFIG.patch_size, image_shape=(32, 32, 3), **sizes
        ),
        text_encoder=keras_hub.models.SigLIPTextEncoder(
            vocabulary_size=CONFIG.vocab_size, embedding_dim=TOWER.width,
            max_sequence_length=CONFIG.n_tokens, projection_dim=CONFIG.embed_dim, **sizes
        ),
    )  # fmt: skip


def _copy_norm(norm, to) -> None:
    to.set_weights([norm.gamma, norm.beta])


def _copy_dense(dense, to) -> None:
    to.set_weights([dense.kernel, dense.bias])


def _copy_block(block, to) -> None:
    width, heads = TOWER.width, TOWER.heads
    _copy_norm(block.norm_attention, to.layer_norm1)
    _copy_norm(block.norm_mlp, to.layer_norm2)
    _copy_dense(block.mlp.up, to.mlp.fc1)
    _copy_dense(block.mlp.down, to.mlp.fc2)
    attention = block.attention
    kernels = np.split(np.asarray(attention.qkv_kernel), 3, axis=1)
    biases = np.split(np.asarray(attention.qkv_bias), 3)
    weights = []
    for kernel, bias in zip(kernels, biases, strict=True):
        weights += [kernel.reshape(width, heads, -1), bias.reshape(heads, -1)]
    weights += [np.asarray(attention.out.kernel).reshape(heads, -1, width), attention.out.bias]
    to.self_attn.set_weights(weights)


def _copy_image_tower(tower, to) -> None:
    embedding = tower.embedding
    to.embedding.patch_embedding.set_weights([embedding.kernel, embedding.patch_bias])
    positions = np.asarray(embedding.positions).reshape(-1, TOWER.width)
    to.embedding.position_embedding.set_weights([positions])
    for block, other in zip(tower.blocks, to.encoder_layers, strict=True):
        _copy_block(block, other)
    _copy_norm(tower.norm, to.post_layer_norm)
    pooling, head = tower.pooling, to.head
    head.probe.assign(np.asarray(pooling.probe)[None])
    by_head = (TOWER.width, TOWER.heads, -1)
    head.attention.set_weights([
        np.reshape(pooling.query_kernel, by_head), np.reshape(pooling.query_bias, by_head[1:]),
        # Any key bias must do: it cannot change a softmax over the tokens.
        np.reshape(pooling.key_kernel, by_head), np.full((TOWER.heads, 12), 0.7),
        np.reshape(pooling.value_kernel, by_head), np.reshape(pooling.value_bias, by_head[1:]),
        np.reshape(pooling.out.kernel, (TOWER.heads, -1, TOWER.width)), pooling.out.bias,
    ])  # fmt: skip
    _copy_norm(pooling.norm, head.layer_norm)
    _copy_dense(pooling.mlp.up, head.mlp.fc1)
    _copy_dense(pooling.mlp.down, head.mlp.fc2)


def _copy_text_tower(tower, to) -> None:
    to.embedding.token_embedding.set_weights(
        [tower.token_embedding, np.transpose(tower.token_embedding)][
            : len(to.embedding.token_embedding.weights)
        ]
    )
    to.embedding.position_embedding.set_weights(
        [tower.positions][: len(to.embedding.position_embedding.weights)]
    )
    for block, other in zip(tower.blocks, to.encoder_layers, strict=True):
        _copy_block(block, other)
    _copy_norm(tower.norm, to.post_layer_norm)
    _copy_dense(tower.projection, to.head)


def _unit(x) -> np.ndarray:
    x = np.asarray(x)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_image_tower_equals_keras_hub(ours, theirs):
    _copy_image_tower(ours.image_tower, theirs.vision_encoder)
    images = np.random.default_rng(1).uniform(-1, 1, (5, 32, 32, 3)).astype(np.float32)
    truth = np.asarray(theirs.get_vision_embeddings(images))
    np.testing.assert_allclose(ours.image_tower(tf.constant(images)), truth, atol=1e-4)
    np.testing.assert_allclose(ours.encode_image(tf.constant(images)), _unit(truth), atol=1e-4)


def test_text_tower_equals_keras_hub(ours, theirs):
    _copy_text_tower(ours.text_tower, theirs.text_encoder)
    tokens = np.random.default_rng(2).integers(0, 50, (5, 10)).astype(np.int32)
    truth = np.asarray(theirs.get_text_embeddings(tokens))
    np.testing.assert_allclose(ours.text_tower(tf.constant(tokens)), truth, atol=1e-4)
    np.testing.assert_allclose(ours.encode_text(tf.constant(tokens)), _unit(truth), atol=1e-4)
