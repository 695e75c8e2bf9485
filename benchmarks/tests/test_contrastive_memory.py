"""Peak memory as the operating system saw it, against the size of what must never exist.

Measured in processes of their own, which this file is when run as a program: TensorFlow keeps what
it once had, so after other work a call would live on its leavings.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.timing import peak_extra_bytes
from jest_tf.losses import grad_cache
from jest_tf.losses.contrastive import contrastive_loss
from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig

MIB = 2**20
N_LOSS, N_TRAIN = 12_288, 512


@pytest.fixture(scope="module")
def peaks() -> dict[str, int]:
    # Compiled as in a real run, and not as the tests are: at this size running costs more.
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "XLA_FLAGS": ""}
    peaks = {}
    for names in (["sigmoid", "softmax"], ["two_passes"], ["recompute"], ["plain"]):
        command = [sys.executable, __file__, *names]
        run = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
        peaks |= json.loads(run.stdout.splitlines()[-1])
    return peaks


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_loss_and_gradient_need_tiles_and_not_the_matrix(peaks, kind):
    matrix = 4 * N_LOSS**2  # 576 MiB
    assert peaks[kind] < matrix / 2


def test_grad_cache_needs_the_activations_of_one_micro_batch(peaks):
    assert peaks["plain"] > 300 * MIB  # else the measurement itself is at fault
    assert peaks["two_passes"] < peaks["plain"] / 3


def test_recompute_needs_the_activations_of_one_block(peaks):
    """The tower has four blocks and a pooling head."""
    assert peaks["recompute"] < 0.75 * peaks["plain"]  # 0.5; more where threads are kept waiting


def _loss(kind: str) -> Callable:
    z = np.random.default_rng(0).standard_normal((2, N_LOSS, 32)).astype(np.float32)
    zimg, ztxt = tf.constant(z / np.linalg.norm(z, axis=-1, keepdims=True))

    def program():
        with tf.GradientTape() as tape:
            tape.watch([zimg, ztxt])
            loss = contrastive_loss(
                zimg, ztxt, tf.constant(10.0), tf.constant(-10.0), kind=kind, block=128
            )
        return tape.gradient(loss, [zimg, ztxt])

    return program


def _training(micro_batch: int = 0, recompute: bool = False) -> Callable:
    config = DualEncoderConfig.from_variant("mu", text={"depth": 1})
    model = DualEncoder(config, recompute=recompute)
    variables = [variable.value for variable in model.trainable_variables]
    images = tf.random.uniform([N_TRAIN, 48, 48, 3], -1, 1)
    tokens = tf.zeros([N_TRAIN, config.n_tokens], tf.int32)

    def logits():
        return model.scale, tf.convert_to_tensor(model.bias.value)

    def embed(rows):
        return model.encode_image(rows[0]), model.encode_text(rows[1])

    @tf.function
    def gradients(batch):
        parts = [grad_cache.EmbeddedPart(embed, batch)]
        return grad_cache.gradients(parts, logits, variables, micro_batch=micro_batch)[1]

    return lambda: gradients((images, tokens))


PROGRAMS = {
    "sigmoid": lambda: _loss("sigmoid"),
    "softmax": lambda: _loss("softmax"),
    "two_passes": lambda: _training(micro_batch=32),
    "recompute": lambda: _training(recompute=True),
    "plain": _training,
}

if __name__ == "__main__":
    print(json.dumps({name: peak_extra_bytes(PROGRAMS[name]()) for name in sys.argv[1:]}))
