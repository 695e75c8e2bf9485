"""A strategy is refused where the machine lacks what it asks for."""

import pytest
import tensorflow as tf

from jest_tf.config import base_config
from jest_tf.errors import UserError
from jest_tf.runtime import strategy


def test_more_gpus_than_there_are_are_refused(monkeypatch):
    config = base_config()
    config.strategy.kind, config.strategy.n_devices = "mirrored", 8
    four = [tf.config.LogicalDevice(f"GPU:{i}", "GPU") for i in range(4)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: four)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: four)
    with pytest.raises(UserError, match=r"n_devices = 8, but TensorFlow sees 4 GPU"):
        strategy.build(config)
