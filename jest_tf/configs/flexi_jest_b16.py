"""Flexi-JEST ViT-B/16: scores at patch 32 and trains half there. Not run at this scale.

    python -m jest_tf.check --config=configs/flexi_jest_b16.py --nodata --compile_for=v5p:4x4x8
    python -m jest_tf.train --config=configs/flexi_jest_b16.py:data=gs://BUCKET/laion.json \
        --config.reference.workdir=/mnt/BUCKET/reference --config.strategy.tpu=NAME \
        --workdir=/mnt/BUCKET/flexi_jest_b16

Arguments: those of configs/jest_b16.py, and `score_tokens=` (16 makes the text tower cheaper too,
which the paper does not do). Marks as in configs/siglip_b16.py. All else is that of JEST.

The reference scores at patch 32 as well, so it must have been trained there: train it with
`--config.resolution.random='("256/16", "256/32")'`.
"""

from ml_collections import ConfigDict

from jest_tf.config import parse_arg
from jest_tf.configs import jest_b16


def get_config(arg: str = "") -> ConfigDict:
    own, jest = jest_b16.split_arg(arg, ("score_tokens",))
    a = parse_arg(own, score_tokens=64)
    c = jest_b16.get_config(jest)
    c.name = "flexi_jest_b16"
    c.resolution.score.resolution = "256/32"  # -72% FLOPs of the image tower [P]
    c.resolution.score.n_tokens = a.score_tokens
    c.resolution.low_share = 0.5  # λ: of the sub-batch, trained as it is scored [P]
    c.resolution.reference.resolution = "256/32"  # [R]
    c.resolution.reference.n_tokens = a.score_tokens
    return c
