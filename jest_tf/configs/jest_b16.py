"""JEST ViT-B/16: joint selection by learnability, f = 0.8, B = 163,840. Not run at this scale.

    python -m jest_tf.check --config=configs/jest_b16.py --nodata --compile_for=v5p:4x4x8
    python -m jest_tf.train --config=configs/jest_b16.py:data=gs://BUCKET/laion.json \
        --config.reference.workdir=/mnt/BUCKET/reference --config.strategy.tpu=NAME \
        --workdir=/mnt/BUCKET/jest_b16

The reference is the same architecture trained on a curated set [P]: configs/siglip_b16.py with its
own `data=`. Arguments: those of configs/siglip_b16.py, and `filter_percent=` (50, 80 or 90),
`reference=`, `policy=`, `criterion=`. Marks as there. All else is that of the baseline.
"""

from ml_collections import ConfigDict

from jest_tf.config import parse_arg
from jest_tf.configs import siglip_b16

# Super-batches of the paper for its sub-batch of 32,768 [P]: twice, five times, ten times as many.
TIMES_LOADED = {50: 2, 80: 5, 90: 10}


def get_config(arg: str = "") -> ConfigDict:
    own, baseline = split_arg(arg, ("filter_percent", "reference", "policy", "criterion"))
    a = parse_arg(
        own,
        filter_percent=80,  # f = 0.8, the paper's default [P]
        reference="/mnt/BUCKET/reference",
        policy="joint",  # [P]
        criterion="learnability",  # [P]
    )
    c = siglip_b16.get_config(baseline)
    c.name = "jest_b16"
    c.reference.workdir = a.reference
    c.selection.policy = a.policy
    c.selection.criterion = a.criterion
    c.selection.super_batch = TIMES_LOADED[a.filter_percent] * c.selection.sub_batch
    c.selection.n_chunks = 16  # [P]
    c.selection.temperature = 1.0  # the paper knows none [P]
    c.selection.scope = "global"  # the paper draws from the whole super-batch [P]
    return c


def split_arg(arg: str, names: tuple[str, ...]) -> tuple[str, str]:
    """Parts a config's argument: what `names` names, and the rest, for the config it builds on."""
    own, rest = [], []
    for item in filter(None, (arg or "").split(",")):
        (own if item.partition("=")[0] in names else rest).append(item)
    return ",".join(own), ",".join(rest)
