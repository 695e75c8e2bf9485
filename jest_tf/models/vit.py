"""Image tower: a ViT without class token, pooled by attention (MAP head), at any resolution."""

from functools import cache

import keras
import numpy as np
import tensorflow as tf

from jest_tf.errors import UserError
from jest_tf.models.transformer import (
    LayerNorm,
    Lora,
    Mlp,
    Tower,
    TowerConfig,
    dense,
    glorot_uniform,
    normal,
)
from jest_tf.ops import resize_matrix


@cache
def pseudo_inverse_matrix(n_in: int, n_out: int) -> np.ndarray:
    """Pseudo-inverse of the transposed resize [n_out, n_in]: it resizes weights, not images.

    With x' = R·x the resized patch, w' = pinv(Rᵀ)·w gives <x', w'> = <x, w> exactly when n_out >=
    n_in, and the least-squares answer when n_out < n_in. In two dimensions R is a Kronecker product
    of its two axes, and so is its pseudo-inverse: one small matrix per axis is enough.
    """
    return np.linalg.pinv(resize_matrix(n_in, n_out).T)


def resize_patch_kernel(kernel: tf.Tensor, patch_size: int) -> tf.Tensor:
    """Patch embedding kernel [p, p, 3, width] for patches of `patch_size` pixels a side."""
    axis = tf.constant(pseudo_inverse_matrix(kernel.shape[0], patch_size), kernel.dtype)
    return tf.einsum("ap,bq,pqcw->abcw", axis, axis, kernel)


def resize_positions(positions: tf.Tensor, rows: int, columns: int) -> tf.Tensor:
    """Position embedding [g, g, width] interpolated to a grid of rows × columns tokens."""
    grid = positions.shape[0]
    vertical = tf.constant(resize_matrix(grid, rows), positions.dtype)
    horizontal = tf.constant(resize_matrix(grid, columns), positions.dtype)
    return tf.einsum("rg,ch,ghw->rcw", vertical, horizontal, positions)


class PatchEmbedding(keras.layers.Layer):
    """Images [n, h, w, 3] -> tokens [n, (h/p)·(w/p), width], positions added, row by row."""

    def __init__(
        self, image_size: int, patch_size: int, width: int, seed: int, name: str, **kwargs
    ) -> None:
        super().__init__(name=name.split("/")[-1], **kwargs)
        self.patch_size, self.width = patch_size, width
        self.grid = image_size // patch_size
        self.kernel = self.add_weight(
            shape=(patch_size, patch_size, 3, width),
            initializer=normal((3 * patch_size**2) ** -0.5, seed, f"{name}/kernel"),
            name="kernel",
        )
        self.patch_bias = self.add_weight(shape=(width,), initializer="zeros", name="bias")
        self.positions = self.add_weight(
            shape=(self.grid, self.grid, width),
            initializer=normal(width**-0.5, seed, f"{name}/positions"),
            name="positions",
        )
        self.built = True

    def call(self, images: tf.Tensor, patch_size: int | None = None) -> tf.Tensor:
        p = patch_size or self.patch_size
        height, width = images.shape[1:3]
        if height is None or width is None or height % p or width % p:
            raise UserError(
                f"images of {height} x {width} pixels cannot be cut into patches of {p}: height "
                "and width must be known and divisible by patch_size; change one of them"
            )
        rows, columns = height // p, width // p
        kernel, positions = tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.positions)
        if p != self.patch_size:
            kernel = resize_patch_kernel(kernel, p)
        if (rows, columns) != (self.grid, self.grid):
            positions = resize_positions(positions, rows, columns)
        patches = tf.reshape(images, [-1, rows, p, columns, p, 3])
        patches = tf.transpose(patches, [0, 1, 3, 2, 4, 5])
        patches = tf.reshape(patches, [-1, rows * columns, p * p * 3])
        tokens = keras.ops.matmul(patches, tf.reshape(kernel, [p * p * 3, self.width]))
        added = tf.reshape(positions, [rows * columns, self.width])
        return tokens + (added + tf.convert_to_tensor(self.patch_bias))


class AttentionPooling(keras.layers.Layer):
    """MAP head (SigLIP): one learned query attends over all tokens, then x + mlp(norm(x)).

    The query is the same for every image, so its key projection is folded into it and the value
    projection follows the weighted mean: a hundredth of the work. A key bias would shift all logits
    of a head alike and is left out.
    """

    def __init__(
        self, width: int, heads: int, mlp_dim: int, seed: int, name: str, **kwargs
    ) -> None:
        super().__init__(name=name.split("/")[-1], **kwargs)
        self.width, self.heads, self.head_dim = width, heads, width // heads
        policy = self.dtype_policy
        self.probe = self.add_weight(
            shape=(1, width), initializer=glorot_uniform(1, width, seed, f"{name}/probe"),
            name="probe",
        )  # fmt: skip
        for part in ("query", "key", "value"):
            kernel = self.add_weight(
                shape=(width, width),
                initializer=glorot_uniform(width, width, seed, f"{name}/{part}"),
                name=f"{part}_kernel",
            )
            setattr(self, f"{part}_kernel", kernel)
        self.query_bias = self.add_weight(shape=(width,), initializer="zeros", name="query_bias")
        self.value_bias = self.add_weight(shape=(width,), initializer="zeros", name="value_bias")
        with keras.name_scope(self.name):
            self.out = dense(width, width, seed, f"{name}/out", policy)
            self.norm = LayerNorm(width, dtype=policy, name="norm")
            self.mlp = Mlp(width, mlp_dim, seed, f"{name}/mlp", dtype=policy)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """`x` [n, L, width] -> [n, width]."""
        per_head = [self.width, self.heads, self.head_dim]
        query = tf.matmul(tf.convert_to_tensor(self.probe), tf.convert_to_tensor(self.query_kernel))
        query = (query + tf.convert_to_tensor(self.query_bias)) * self.head_dim**-0.5
        key = tf.reshape(tf.convert_to_tensor(self.key_kernel), per_head)
        folded = tf.einsum("whd,hd->wh", key, tf.reshape(query, per_head[1:]))  # [width, heads]
        logits = tf.transpose(keras.ops.matmul(x, folded), [0, 2, 1])  # [n, heads, L]
        weights = tf.cast(tf.nn.softmax(tf.cast(logits, tf.float32)), x.dtype)
        means = tf.transpose(tf.matmul(weights, x), [1, 0, 2])  # [heads, n, width]
        value = tf.transpose(
            tf.reshape(tf.convert_to_tensor(self.value_kernel), per_head), [1, 0, 2]
        )
        values = tf.transpose(tf.matmul(means, value), [1, 0, 2])  # [n, heads, head_dim]
        pooled = tf.reshape(values, [-1, self.width]) + tf.convert_to_tensor(self.value_bias)
        pooled = self.out(pooled)
        return pooled + self.mlp(self.norm(pooled))


class VisionTransformer(Tower):
    """Images [n, h, w, 3] -> [n, embed_dim], not normalised."""

    def __init__(
        self, size: TowerConfig, seed: int, *, image_size: int, patch_size: int, embed_dim: int,
        recompute: bool = False, lora: Lora | None = None, **kwargs,
    ) -> None:  # fmt: skip
        super().__init__(size, seed, **kwargs)
        policy, width = self.dtype_policy, size.width
        with keras.name_scope(self.name):
            self.embedding = PatchEmbedding(
                image_size, patch_size, width, seed, "image/embedding", dtype=policy
            )
            self.add_blocks(recompute, lora)
            sizes = (width, size.heads, size.mlp_dim)
            self.pooling = AttentionPooling(*sizes, seed, "image/pooling", dtype=policy)
            self.projection = None
            if width != embed_dim:
                kernel = normal(width**-0.5, seed, "image/projection")
                self.projection = dense(width, embed_dim, seed, "image/projection", policy, kernel)
        self.built = True

    def call(
        self, images: tf.Tensor, patch_size: int | None = None, depth: int | None = None
    ) -> tf.Tensor:
        x = self.embedding(images, patch_size=patch_size)
        for block in self.blocks[:depth]:
            x = block(x)
        x = self.pooling(self.norm(x))
        return x if self.projection is None else self.projection(x)
