"""The base model that data/emoji/base holds: a `mu` SigLIP on the curated emoji, from nothing.

    python -m examples.emoji.train_base

Against the reference of `configs/emoji.py`: pictures are cropped and changed and weights decay, so
that more steps do not overfit, and what is kept is the average of the weights.
`validate_every=` evaluates on the validation part.
"""

import ml_collections

from jest_tf.config import parse_arg
from jest_tf.configs import emoji

STEPS = 4400  # an hour of two cores


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: `steps=`, `seed=`, `validate_every=`."""
    a = parse_arg(arg, steps=STEPS, seed=0, validate_every=0)
    c = emoji.get_config(
        f"reference,steps={a.steps},seed={a.seed},validate_every={a.validate_every}"
    )
    c.name = "base"
    c.data.augment = ("crop", "flip", "colour", "cutout")
    c.optimizer.weight_decay = 0.05
    c.optimizer.ema = 0.99
    return c
