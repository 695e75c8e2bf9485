"""JEST on your own pairs, prepared by `python -m jest_tf.prepare` (docs/your_data.md).

    python -m jest_tf.train --config=configs/your_data.py:reference --workdir=runs/reference \
        --config.data.train=data/curated
    python -m jest_tf.train --config=configs/your_data.py --workdir=runs/jest \
        --config.data.train=data/mine --config.reference.workdir=runs/reference \
        --config.data.vocab=runs/reference/vocab.txt

    python -m jest_tf.train --config=configs/your_data.py:policy=uniform --workdir=runs/uniform \
        --config.data.train=data/mine --config.data.vocab=runs/reference/vocab.txt

Arguments: `reference` (train uniformly, on the part that you trust), `policy=` (`uniform` is the
baseline), `steps=`, `seed=`, `sub_batch=` (the super-batch and the initial bias follow), `eval=`
(share of your pairs that is held out and evaluated while training). Everything else by
`--config.x.y=…`; sizes are those of a first run on one GPU. More evaluations:
`--config.evals.coco=retrieval@1000:data/coco`.
"""

import math

from ml_collections import ConfigDict

from jest_tf.config import HELD_OUT, base_config, evaluation, parse_arg, set_batches


def get_config(arg: str = "") -> ConfigDict:
    a = parse_arg(
        arg, reference=False, policy="joint", steps=10_000, seed=0, sub_batch=512, eval=0.05
    )
    policy = "uniform" if a.reference else a.policy
    c = base_config()
    c.seed = a.seed
    c.name = "reference" if a.reference else policy
    c.total_steps = a.steps
    c.optimizer.warmup_steps = min(1_000, a.steps // 4)
    c.data.image_size = c.model.image_size = 224
    c.data.n_tokens = 32
    c.data.vocab_size = 16_000
    c.data.eval_share = a.eval
    c.model.variant = "Ti"
    c.model.patch_size = 16
    c.model.init_bias = round(-math.log(a.sub_batch), 2)  # an easy negative then weighs about 1/b
    set_batches(c, policy, a.sub_batch)
    if a.eval:
        c.evals.held_out = evaluation("retrieval", HELD_OUT, every_steps=max(1, a.steps // 10))
    return c
