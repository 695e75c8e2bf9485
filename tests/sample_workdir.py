"""A workdir as training leaves it, made in milliseconds: for tests of what reads one."""

import json
from pathlib import Path

import numpy as np

from examples.emoji import builder as emoji
from jest_tf.config import base_config
from jest_tf.monitoring.labels import Labels
from jest_tf.monitoring.metrics_log import MetricsLog
from jest_tf.monitoring.picks_log import PicksLog
from jest_tf.monitoring.samples import GROUPS, Samples, write_samples

B = 16
HOSTILE = '<script>alert(1)</script> & "quotes" é中'


def make_run(path: Path, n_steps=40, policy="joint", every=1, n_samples=2) -> Path:
    """A workdir as training leaves it, on the emoji pool."""
    config = base_config()
    config.name, config.total_steps = policy, n_steps
    config.data.train = "tfds:emoji_captions/pool:train"
    config.selection.policy = policy
    config.selection.sub_batch = B
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    (path / "environment.json").write_text(json.dumps({"host": HOSTILE, "packages": {"tf": "2"}}))
    Labels(emoji.noise_by_id(), emoji.NOISY).save(path / "labels.npz")
    metrics, rng = MetricsLog(path / "metrics.jsonl"), np.random.default_rng(0)
    for step in range(every, n_steps + 1, every):
        metrics.write(step, metrics_at(step))
        if step % 10 == 0:
            metrics.write(step, {"eval/retrieval/image_to_text/recall@1": step / n_steps / 2})
    metrics.close()
    picks = PicksLog(path / "picks", B)
    for step in range(1, n_steps + 1):
        picks.write(step, rng.integers(0, 60_000, B))
    picks.close()
    for i in range(n_samples):
        write_samples(path / "samples", (i + 1) * n_steps // n_samples, some_samples(rng))
    return path


def metrics_at(step: int) -> dict:
    return {
        "train/loss": 5.0 / step,
        "selection/joint_score": float("nan") if step == 1 else 1.0,
        "selection/joint_score_uniform": 0.5,
        "acceptance/pool": 0.2,
        "cost/examples_scored": 640 * step,
        "cost/examples_trained": 128 * step,
        "cost/flops": 1e9 * step,
        "cost/seconds": 2.0 * step,
        "cost/seconds/input": 0.5 * step,
        "cost/seconds/step": 1.5 * step,
        "cost/steps": step,
    }


def some_samples(rng, n=24) -> Samples:
    numbers = rng.normal(size=[3, n]).astype(np.float32)
    return Samples(
        np.array([list(GROUPS)[i % 3] for i in range(n)]),
        np.arange(n),
        rng.integers(0, 256, [n, 64, 64, 3], dtype=np.uint8),
        np.array([HOSTILE] * n),
        np.array(["pool"] * n),
        *numbers,
    )


def row(name: str, recalls: tuple[float, float, float, float], **values) -> dict:
    """A run as `run_history.summarise` tells it; recalls: R@1 and R@5, both ways."""
    keys = ("image_to_text_r1", "image_to_text_r5", "text_to_image_r1", "text_to_image_r5")
    return (
        {"name": name, "policy": name, "flops": 2.5e12}
        | dict(zip(keys, recalls, strict=True))
        | values
    )
