"""Two trainings that differ by rounding alone: what of them can be compared, and how closely.

Weights cannot, one by one: Adam divides a gradient by its size, so the rounding of a gradient near
zero moves its weight by a whole learning rate. Its first moments are sums of the gradients.
"""

import numpy as np
from numpy.testing import assert_allclose

# float32 rounds by 2^-24, and an entry of a gradient here is a sum of up to 1,024 terms
# (8 examples x 4 patches x 32 channels), each as large as the largest entry at most.
ONE_STEP = 1024 * 2**-24
# The steps carry the differences on, through the few weights that Adam moved otherwise.
MANY_STEPS = 1e-3


def first_moments(model) -> list[np.ndarray]:
    """Of Adam, per trainable variable. After one step: 1 - beta_1 of the clipped gradient."""
    return [v.numpy() for v in model.optimizer.variables if v.path.endswith("momentum")]


def assert_trained_alike(model, other, tolerance: float) -> None:
    """Moments agree relative to the largest of their variable, weights as one long vector."""
    assert_arrays_alike(first_moments(model), first_moments(other), tolerance)
    weights = [m.learner.get_weights() for m in (model, other)]
    assert_weights_alike(*weights)


def assert_arrays_alike(found: list, expected: list, tolerance: float) -> None:
    """Each array relative to its largest entry, or to a hundredth of the largest of all: some
    gradients, as that of the bias under softmax, are nothing but rounding."""
    sizes = [np.abs(b).max() for b in expected]
    assert max(sizes) > 0
    for a, b, size in zip(found, expected, sizes, strict=True):
        assert_allclose(a, b, rtol=0, atol=tolerance * max(size, 0.01 * max(sizes)))


def assert_weights_alike(found: list, expected: list) -> None:
    """Relative to the norm of all weights: a few that Adam moved otherwise weigh little."""
    found, expected = (np.concatenate([np.ravel(a) for a in side]) for side in (found, expected))
    distance = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert distance < MANY_STEPS, distance
