"""The fit of a reference's scale and bias against a fine search, and what it restores."""

import numpy as np
import pytest

from jest_tf.config import base_config
from jest_tf.errors import UserError
from jest_tf.training import calibration


def pairs(n: int = 300, d: int = 16, noise: float = 1.5) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    zimg = rng.normal(size=(n, d))
    ztxt = zimg + noise * rng.normal(size=(n, d))
    return [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (zimg, ztxt)]


def mean_loss(zimg, ztxt, scale, bias, kind: str) -> float:
    z = scale * zimg @ ztxt.T + bias
    if kind == "sigmoid":
        return np.logaddexp(0, (1 - 2 * np.eye(len(z))) * z).sum() / len(z)
    sums = np.log(np.exp(z).sum(0)) + np.log(np.exp(z).sum(1))
    return (0.5 * sums - np.diag(z)).mean()


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
@pytest.mark.parametrize(("scale", "bias"), [(117.0, -12.9), (1.0, 0.0)])
def test_no_other_scale_or_bias_has_a_lower_loss(kind, scale, bias):
    zimg, ztxt = pairs()
    found = calibration.fit(zimg, ztxt, scale, bias, kind, batch=300)
    assert found.loss == pytest.approx(mean_loss(zimg, ztxt, found.scale, found.bias, kind))
    assert found.loss_before == pytest.approx(mean_loss(zimg, ztxt, scale, bias, kind))
    for factor in (0.98, 1.02):
        for shift in (0.0,) if kind == "softmax" else (-0.05, 0.0, 0.05):
            other = mean_loss(zimg, ztxt, factor * found.scale, found.bias + shift, kind)
            assert other > found.loss
    assert (found.bias == bias) == (kind == "softmax")
    assert "reference calibrated on 300 pairs" in str(found)


def test_a_small_sample_is_weighed_as_the_batch_would_be():
    """Random negatives: 100 times as many lower the bias by about log 100."""
    zimg, ztxt = pairs()
    small = calibration.fit(zimg, ztxt, 10.0, -10.0, "sigmoid", batch=300)
    large = calibration.fit(zimg, ztxt, 10.0, -10.0, "sigmoid", batch=30_000)
    assert small.bias - large.bias == pytest.approx(np.log(100), abs=2.0)


def test_a_few_pairs_are_refused():
    config = base_config()
    config.reference.calibrate = "data/clean"
    calibration.require_pairs(config, calibration.MIN_PAIRS)
    with pytest.raises(UserError, match="'data/clean' holds 31 pairs .* expected 32 or more"):
        calibration.require_pairs(config, 31)


def test_rows_of_one_caption_are_left_out():
    zimg, ztxt = pairs(40)
    zimg, ztxt = np.concatenate([zimg, zimg]), np.concatenate([ztxt, ztxt])
    captions = np.arange(80) % 40
    twice = calibration.fit(zimg, ztxt, 10.0, -5.0, "sigmoid", 80, captions)
    assert twice.loss < calibration.fit(zimg, ztxt, 10.0, -5.0, "sigmoid", 80).loss


def test_pairs_that_are_all_told_apart_stay_within_bounds():
    z = np.eye(16)
    found = calibration.fit(z, z, 10.0, -5.0, "sigmoid", batch=16)
    assert np.isfinite([found.scale, found.bias, found.loss]).all()
    assert found.scale <= calibration.BOUNDS[0][1]
