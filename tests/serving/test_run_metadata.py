"""What an export says about the run that it comes from."""

import pytest

from jest_tf.config import base_config
from jest_tf.export import trained_how


def _training(distillation: float) -> dict:
    config = base_config()
    config.reference.workdir = "runs/reference"
    config.reference.distillation = distillation
    return trained_how(config.to_dict(), step=3)


@pytest.mark.parametrize(
    ("distillation", "said"),
    [(0.0, "none"), (0.5, "weight 0.5, from runs/reference")],
)
def test_a_teacher_is_named_whatever_the_policy(distillation, said):
    assert _training(distillation)["distillation"] == said
