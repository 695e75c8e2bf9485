"""What an export says about the run that it comes from."""

import pytest

from jest_tf.config import base_config
from jest_tf.serving.run_metadata import run_metadata


def _training(distillation: float) -> dict:
    config = base_config()
    config.reference.workdir = "runs/reference"
    config.reference.distillation = distillation
    return run_metadata(config.to_dict(), step=3, workdir="runs/uniform")["training"]


@pytest.mark.parametrize(
    ("distillation", "said"),
    [(0.0, "none"), (0.5, "weight 0.5, from runs/reference")],
)
def test_a_teacher_is_named_whatever_the_policy(distillation, said):
    assert _training(distillation)["distillation"] == said
