"""Peak memory as the operating system saw it, against the size of what must never exist.

Measured in a process of its own, which this file is when run as a program: TensorFlow keeps what it
once had, so after other tests a call would live on their leavings.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig
from jest_tf.training.contrastive import contrastive_loss
from jest_tf.training.grad_cache import EmbeddedPart, grad_cache_gradients

MIB = 2**20
N_LOSS, N_TRAIN = 12_288, 512


@pytest.fixture(scope="module")
def peaks() -> dict[str, int]:
    run = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_loss_and_gradient_need_tiles_and_not_the_matrix(peaks, kind):
    matrix = 4 * N_LOSS**2  # 576 MiB
    assert peaks[kind] < matrix / 2


def test_grad_cache_needs_the_activations_of_one_micro_batch(peaks):
    assert peaks["plain"] > 300 * MIB  # else the measurement itself is at fault
    assert peaks["two_passes"] < peaks["plain"] / 3


def _status(field: str) -> int:
    """Bytes of a line of /proc/self/status."""
    with open("/proc/self/status") as lines:
        (line,) = (line for line in lines if line.startswith(field))
    return int(line.split()[1]) * 1024


def _loss(kind: str) -> None:
    z = np.random.default_rng(0).standard_normal((2, N_LOSS, 32)).astype(np.float32)
    zimg, ztxt = tf.constant(z / np.linalg.norm(z, axis=-1, keepdims=True))
    with tf.GradientTape() as tape:
        tape.watch([zimg, ztxt])
        loss = contrastive_loss(
            zimg, ztxt, tf.constant(10.0), tf.constant(-10.0), kind=kind, block=128
        )
    tape.gradient(loss, [zimg, ztxt])


def _training(micro_batch: int | None) -> None:
    config = DualEncoderConfig.from_variant("mu", image={"depth": 2}, text={"depth": 1})
    model = DualEncoder(config)
    variables = [variable.value for variable in model.trainable_variables]
    images = tf.random.uniform([N_TRAIN, 48, 48, 3], -1, 1)
    tokens = tf.zeros([N_TRAIN, config.n_tokens], tf.int32)

    def logits():
        return model.scale, tf.convert_to_tensor(model.bias.value)

    def embed(rows):
        return model.encode_image(rows[0]), model.encode_text(rows[1])

    @tf.function
    def plain(batch):
        with tf.GradientTape() as tape:
            loss = contrastive_loss(*embed(batch), *logits())
        return [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]

    @tf.function
    def two_passes(batch):
        return grad_cache_gradients(
            [EmbeddedPart(embed, batch)], logits, variables, micro_batch=micro_batch, embed_dim=128
        )[1]

    (two_passes if micro_batch else plain)((images, tokens))


def _peaks() -> dict[str, int]:
    """Growth of the process's peak, in bytes; small ones first, because it never shrinks."""
    calls = {
        "sigmoid": lambda: _loss("sigmoid"),
        "softmax": lambda: _loss("softmax"),
        "two_passes": lambda: _training(32),
        "plain": lambda: _training(None),
    }
    peaks = {}
    for name, call in calls.items():
        before = _status("VmRSS")
        call()
        peaks[name] = _status("VmHWM") - before
    return peaks


if __name__ == "__main__":
    print(json.dumps(_peaks()))
