"""Tunes the shipped emoji base on the grocery photographs, prepared from data/photos.

    python -m jest_tf.train --config=examples/photos/tune.py:reference --workdir=runs/reference \
        --config.model.init=runs/base
    python -m jest_tf.train --config=examples/photos/tune.py --workdir=runs/joint \
        --config.model.init=runs/base --config.reference.workdir=runs/reference

The base has never seen a photograph. So the reference is the base tuned on the 296 curated pairs.
Arguments: `reference`, `policy=`, `steps=`, `seed=`; `data=` the folder of the prepared sets.
"""

import ml_collections

from examples.emoji.tune import STEPS, evaluate, short_run
from jest_tf.config import parse_arg
from jest_tf.configs import tune


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """See the module docstring for the arguments."""
    a = parse_arg(
        arg, reference=False, policy="joint", steps=STEPS, seed=0, data="data/prepared/photos"
    )
    policy = "uniform" if a.reference else a.policy
    c = tune.get_config(f"policy={policy},steps={a.steps},seed={a.seed},sub_batch=128,eval=0")
    c.name = "reference" if a.reference else a.policy
    c.data.train = f"{a.data}/{'curated' if a.reference else 'pool'}"
    short_run(c)
    evaluate(c, lambda kind, part: f"{a.data}/{part}")
    return c
