"""A workdir as a long run leaves it, made in seconds, for measuring what reads one."""

import json
import math
from pathlib import Path

import numpy as np

from examples.emoji import builder as emoji
from jest_tf.config import base_config
from jest_tf.monitoring import environment
from jest_tf.monitoring.labels import Labels
from jest_tf.monitoring.metrics_log import MetricsLog
from jest_tf.monitoring.picks_log import PicksLog
from jest_tf.monitoring.samples import GROUPS, Samples, write_samples

SUB_BATCH, PER_GROUP, IMAGE_SIZE = 128, 16, 64
POOL = 60_000
NAMES = (
    "train/loss", "train/gradient_norm", "train/learning_rate", "train/learner_scale",
    "train/learner_bias", "train/reference_scale", "train/reference_bias", "train/pool_accuracy",
    "selection/joint_score", "selection/joint_score_independent_top_k", "input/wait_share",
    "selection/joint_score_uniform", "selection/chosen_score", "selection/pool_score",
    "selection/overlap_independent_top_k", "selection/effective_pool", "selection/entropy",
    "selection/gain", "selection/n_candidates", "acceptance/emoji_captions/pool",
)  # fmt: skip
TOTALS = (
    "cost/steps", "cost/examples_scored", "cost/examples_trained", "cost/flops", "cost/seconds",
    "cost/flops/score_learner", "cost/flops/score_reference", "cost/flops/select",
    "cost/flops/train@48/8", "cost/seconds/step", "cost/seconds/input", "cost/seconds/compile",
)  # fmt: skip


def make_run(path: Path, n_steps: int, n_samples: int) -> Path:
    """A finished joint run of the emoji pool, every step logged, with random numbers and images.

    Args:
      path: where to; must not exist.
      n_samples: of so many steps examples are kept.
    """
    rng = np.random.default_rng(0)
    config = base_config()
    config.name, config.total_steps = "joint", n_steps
    config.data.train = "tfds:emoji_captions/pool:train"
    config.selection.policy = "joint"
    config.selection.super_batch, config.selection.sub_batch = 5 * SUB_BATCH, SUB_BATCH
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    (path / "environment.json").write_text(json.dumps(environment.collect()))
    Labels(emoji.noise_by_id(), emoji.NOISY).save(path / "labels.npz")
    metrics, picks = MetricsLog(path / "metrics.jsonl"), PicksLog(path / "picks", SUB_BATCH)
    for step in range(1, n_steps + 1):
        noise = rng.normal(size=len(NAMES)) / 10 + 1 / math.sqrt(step)
        values = dict(zip(NAMES, noise.tolist(), strict=True))
        metrics.write(step, values | {name: float(1e9 * step) for name in TOTALS})
        if step % (n_steps // 20) == 0:
            for way in ("image_to_text", "text_to_image"):
                recalls = {f"eval/retrieval/{way}/recall@{k}": step / n_steps for k in (1, 5, 10)}
                metrics.write(step, recalls)
        picks.write(step, rng.integers(0, POOL, SUB_BATCH))
    metrics.close()
    picks.close()
    for i in range(1, n_samples + 1):
        write_samples(path / "samples", i * n_steps // n_samples, _samples(rng))
    return path


def _samples(rng: np.random.Generator) -> Samples:
    n = len(GROUPS) * PER_GROUP
    return Samples(
        np.repeat(list(GROUPS), PER_GROUP),
        np.arange(n),
        rng.integers(0, 256, [n, IMAGE_SIZE, IMAGE_SIZE, 3], dtype=np.uint8),
        np.array(["a caption of some words"] * n),
        np.array(["emoji_captions/pool"] * n),
        *rng.normal(size=[3, n]).astype(np.float32),
    )
