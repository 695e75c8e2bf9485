"""The formulas against the collectives that the real step calls."""

import types

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict
from small_run import ONE_BLOCK

from benchmarks.traffic import Exchange, exchanges, expected_travellers, link_bytes
from jest_tf.config import base_config
from jest_tf.preflight.tpu_compile import lower
from jest_tf.training.assemble import parts_of

R = 4
SCALARS = 24  # bytes of the counts and the sums that become metrics


class Recorder:
    """Collectives that only note how many bytes each of them carries."""

    in_loops, size, rank = True, R, 0

    def __init__(self):
        self.payloads = []

    def all_gather(self, x):
        self.payloads.append(R * x.dtype.size * x.shape.num_elements())
        return tf.concat([x] * R, axis=0)

    def all_reduce_sum(self, x):
        self.payloads.append(sum(t.dtype.size * t.shape.num_elements() for t in tf.nest.flatten(x)))
        return x


@pytest.fixture
def config():
    c = base_config()
    c.data.train = c.reference.workdir = "anywhere"
    c.model.sizes = ConfigDict(ONE_BLOCK)
    c.selection.policy = "joint"
    c.selection.super_batch, c.selection.sub_batch, c.selection.n_chunks = 320, 64, 4
    return c


@pytest.mark.parametrize(
    ("policy", "loss", "distillation", "augment"),
    [
        ("joint", "sigmoid", 0.0, ()),
        ("joint", "softmax", 0.0, ()),
        ("joint", "sigmoid", 0.5, ("flip",)),
        ("independent_top_k", "softmax", 0.5, ()),
        ("uniform", "sigmoid", 0.5, ()),
    ],
)
def test_payloads_are_those_of_the_step(config, policy, loss, distillation, augment, monkeypatch):
    config.data.augment = augment
    config.selection.policy, config.loss = policy, loss
    config.reference.distillation = distillation
    recorder = Recorder()
    monkeypatch.setattr(lower, "CompiledCollectives", lambda _: recorder)
    traced = types.SimpleNamespace()

    def trace(name, program, batch):
        traced.step = tf.function(program, autograph=False).get_concrete_function(batch)
        return b""

    monkeypatch.setattr(lower, "hlo_of", trace)
    lower.lower_train_step(config, R)
    parts = parts_of(config, R)
    large = [e for e in exchanges(config, parts, parts.schedule.plan(0), R) if e.payload > SCALARS]
    # Those that happen several times a step whatever was picked; travellers' rounds are a loop.
    repeated = ("embeddings for the loss", "reference's embeddings", "normalisers")
    expected = [e.payload for e in large
                for _ in range(int(e.times) if e.name.startswith(repeated) else 1)]  # fmt: skip
    if policy == "joint":  # The loop's body draws again; the last chunk travels after the loop.
        expected += expected[:2]
    assert sorted(p for p in recorder.payloads if p > SCALARS) == sorted(expected)


def test_travellers_are_those_of_random_picks():
    rng = np.random.default_rng(0)
    b, n_replicas = 4096, 16
    counts = rng.multinomial(b, [1 / n_replicas] * n_replicas, size=2000)
    surplus = np.maximum(counts - b // n_replicas, 0).sum(1).mean()
    assert expected_travellers(b, n_replicas) == pytest.approx(surplus, rel=0.02)


def test_a_ring_passes_every_byte_almost_twice():
    assert link_bytes([Exchange("x", 100, 3)], 4) == pytest.approx(300 * 1.5)


def test_one_replica_sends_nothing_and_its_own_picks_do_not_travel(config):
    parts = parts_of(config, 1)
    assert exchanges(config, parts, parts.schedule.plan(0), 1) == []
    config.selection.scope = "replica"
    parts = parts_of(config, R)
    travel = {e.name: e.times for e in exchanges(config, parts, parts.schedule.plan(0), R)}
    assert travel["picked images"] == 0
