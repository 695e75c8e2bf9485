"""Shared test set-up: four logical CPU devices, so that distributed tests run in any process."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest
import tensorflow as tf
from tensorflow.python.framework import config as framework_config

N_LOGICAL_DEVICES = 4

# Must come before TensorFlow touches its devices, hence at import and not in a fixture.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * N_LOGICAL_DEVICES,
)


@pytest.fixture(scope="session")
def logical_devices() -> list[str]:
    """Names of the logical CPU devices, to build a MirroredStrategy over some of them."""
    return [f"CPU:{i}" for i in range(N_LOGICAL_DEVICES)]


@pytest.fixture(autouse=True)
def _no_determinism_left_behind():
    """A run with strategy.deterministic switches it on for its process: not for later tests."""
    yield
    framework_config.disable_op_determinism()
