"""Weights of a ViT at another patch size or grid: FlexiViT (arXiv 2212.08013), section 3."""

from functools import cache

import numpy as np
import tensorflow as tf

from jest_tf.ops.resizing import resize_matrix


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
