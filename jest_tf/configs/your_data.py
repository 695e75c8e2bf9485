"""JEST on your own pairs, prepared by `python -m jest_tf.data.prepare` (docs/your_data.md).

    python -m jest_tf.train --config=configs/your_data.py:reference --workdir=runs/reference \
        --config.data.train=data/curated
    python -m jest_tf.train --config=configs/your_data.py --workdir=runs/jest \
        --config.data.train=data/mine --config.reference.workdir=runs/reference \
        --config.data.vocab=runs/reference/vocab.txt

Arguments: `reference` (train uniformly, on the part that you trust), `steps=`, `seed=`. Everything
else by `--config.x.y=…`; sizes are those of a first run on one GPU.
"""

import math

import ml_collections

from jest_tf.config import base_config, parse_arg

SUB_BATCH = 512
SUPER_BATCH = 2560  # filter ratio 0.8, the paper's default


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Your pairs; see the module docstring for the arguments."""
    a = parse_arg(arg, reference=False, steps=10_000, seed=0)
    c = base_config()
    c.seed = a.seed
    c.name = "reference" if a.reference else "joint"
    c.total_steps = a.steps
    c.optimizer.warmup_steps = min(1_000, a.steps // 4)
    c.data.image_size = c.model.image_size = 224
    c.data.n_tokens = 32
    c.data.vocab_size = 16_000
    c.model.variant = "Ti"
    c.model.patch_size = 16
    c.model.init_bias = round(-math.log(SUB_BATCH), 2)  # an easy negative then weighs about 1/b
    c.selection.policy = "uniform" if a.reference else "joint"
    c.selection.sub_batch = SUB_BATCH
    # 6% more than it trains on, so that a step survives a few records that cannot be used.
    c.selection.super_batch = SUB_BATCH + 32 if a.reference else SUPER_BATCH
    return c
