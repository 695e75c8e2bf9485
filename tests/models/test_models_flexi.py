"""FlexiViT resizing against its closed form, and the plain path at native resolution."""

import numpy as np
import pytest
import tensorflow as tf

from jest_tf.errors import UserError
from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig
from jest_tf.models.vit import PatchEmbedding, pseudo_inverse_matrix, resize_patch_kernel
from jest_tf.ops import resize_matrix

CONFIG = DualEncoderConfig.from_variant(
    "mu", image_size=32, image={"width": 32, "mlp_dim": 64}, text={"width": 32, "mlp_dim": 64}
)


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    return DualEncoder(CONFIG, seed=1)


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize(("n_in", "n_out"), [(8, 16), (8, 4), (16, 12), (7, 21), (5, 5)])
def test_resize_matrix_equals_tf_image_resize(n_in, n_out):
    rows = _random(n_in, 3)
    image = np.repeat(rows[None, :, None, :], 2, axis=2)  # constant across, so one axis acts
    truth = tf.image.resize(image, (n_out, 2), antialias=True)[0, :, 0]
    np.testing.assert_allclose(resize_matrix(n_in, n_out) @ rows, truth, atol=1e-6)


@pytest.mark.parametrize("patch_size", [8, 12, 16, 24])
def test_tokens_of_upsampled_patches_are_unchanged(patch_size):
    layer = PatchEmbedding(32, 8, width=20, seed=0, name="x/embedding")
    images = _random(3, 32, 32, 3)
    patches = images.reshape(3, 4, 8, 4, 8, 3)
    resize = resize_matrix(8, patch_size)
    upsampled = np.einsum("pa,qb,nraobc->nrpoqc", resize, resize, patches)
    side = 4 * patch_size
    upsampled = upsampled.reshape(3, side, side, 3).astype(np.float32)
    np.testing.assert_allclose(
        layer(tf.constant(upsampled), patch_size=patch_size), layer(tf.constant(images)), atol=2e-5
    )


def test_downward_kernel_is_the_least_squares_solution():
    kernel = _random(8, 8, 3, 5)
    resize = resize_matrix(8, 4)
    resize_2d = np.kron(resize, resize)  # [16, 64]: patches of 8 pixels to patches of 4
    for channel in range(3):
        truth, *_ = np.linalg.lstsq(resize_2d.T, kernel[:, :, channel].reshape(64, 5), rcond=None)
        ours = resize_patch_kernel(tf.constant(kernel), 4)[:, :, channel]
        np.testing.assert_allclose(np.reshape(ours, (16, 5)), truth, atol=1e-4)


def test_pseudo_inverse_at_native_size_is_the_identity():
    np.testing.assert_allclose(pseudo_inverse_matrix(8, 8), np.eye(8), atol=1e-12)


def test_native_resolution_is_bit_equal_to_the_plain_vit(model):
    images = tf.constant(_random(3, 32, 32, 3))
    plain = model.encode_image(images)
    flexi = model.encode_image(images, patch_size=8, depth=4)
    np.testing.assert_array_equal(plain, flexi)
    # The plain ViT, written out: no resize matrix comes near the weights.
    tower = model.image_tower
    patches = tf.image.extract_patches(images, [1, 8, 8, 1], [1, 8, 8, 1], [1] * 4, "VALID")
    x = tf.reshape(patches, [3, 16, 192]) @ tf.reshape(tower.embedding.kernel, [192, 32])
    x = x + tf.reshape(tower.embedding.positions, [16, 32]) + tower.embedding.patch_bias
    for block in tower.blocks:
        x = block(x)
    x = tower.projection(tower.pooling(tower.norm(x)))
    np.testing.assert_allclose(plain, tf.math.l2_normalize(x, -1), atol=1e-6)


@pytest.mark.parametrize(("size", "patch"), [(32, 16), (16, 8), (16, 4), (48, 8), (64, 16)])
def test_other_resolutions_give_unit_embeddings(model, size, patch):
    zimg = model.encode_image(tf.constant(_random(2, size, size, 3)), patch_size=patch)
    assert zimg.shape == (2, 128)
    np.testing.assert_allclose(np.linalg.norm(zimg, axis=1), 1.0, atol=1e-5)


def test_every_weight_gets_a_gradient_at_a_resized_resolution(model):
    images = tf.constant(_random(2, 16, 16, 3))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model.encode_image(images, patch_size=4)[:, :3])
    weights = model.image_tower.trainable_variables
    gradients = tape.gradient(loss, [weight.value for weight in weights])
    assert all(float(tf.norm(gradient)) > 0 for gradient in gradients)


def test_position_embedding_of_a_linear_ramp_stays_linear():
    layer = PatchEmbedding(64, 8, width=2, seed=0, name="x/embedding")
    ramp = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0), indexing="ij"), axis=-1)
    layer.positions.assign(ramp)
    layer.kernel.assign(np.zeros((8, 8, 3, 2)))
    rows = np.reshape(layer(tf.zeros([1, 128, 128, 3])), (16, 16, 2))[2:-2, 2:-2]
    expected = (np.arange(16) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(rows[:, 0, 0], expected[2:-2], atol=1e-5)
    np.testing.assert_allclose(rows[0, :, 1], expected[2:-2], atol=1e-5)


def test_an_image_that_does_not_divide_is_refused(model):
    with pytest.raises(UserError, match="30 x 30 pixels cannot be cut into patches of 8"):
        model.encode_image(tf.zeros([1, 30, 30, 3]))
