"""Small tensor functions that several packages of layer 1 share."""

from functools import cache

import numpy as np

from jest_tf.model_record import PixelRule


@cache
def resize_matrix(n_in: int, n_out: int, rule: PixelRule = PixelRule()) -> np.ndarray:
    """float64 [n_out, n_in]: rows of the rule's filter, widened when shrinking; they sum to 1.

    By default the weights of `tf.image.resize(..., antialias=True)` (half-pixel centres).
    """
    scale = n_in / n_out
    centres = (np.arange(n_out) + 0.5) * scale
    distance = np.abs(np.arange(n_in) + 0.5 - centres[:, None])
    distance /= max(scale, 1.0) if rule.antialias else 1.0
    weights = np.maximum(0.0, 1.0 - distance)
    if rule.resize == "bicubic":  # Keys' kernel with a = -0.5, as Pillow's
        near = (1.5 * distance - 2.5) * distance**2 + 1.0
        far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
        weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)
