"""A run of milliseconds per step, to be interrupted. Its data come by --config.data.train.

    python -m jest_tf.train --config=benchmarks/faults/tiny_config.py:reference --workdir=…

Arguments: `reference`, `criterion=`, `steps=`. See tiny_run.py for the data and the whole command.
"""

import ml_collections

from jest_tf.config import base_config, evaluation, parse_arg


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Every part of a JEST run at its smallest; see the module docstring for the arguments."""
    a = parse_arg(arg, reference=False, criterion="learnability", steps=30)
    c = base_config()
    c.name = "reference" if a.reference else "tiny"
    c.total_steps = a.steps
    c.data.image_size = c.model.image_size = 16
    c.data.n_tokens = 8
    c.data.n_lanes = 4
    c.selection.super_batch = 32
    c.selection.sub_batch = 32 if a.reference else 8
    c.selection.n_chunks = 4
    c.selection.policy = "uniform" if a.reference else "joint"
    c.selection.criterion = a.criterion
    c.optimizer.warmup_steps = 2
    c.strategy.jit_compile = False
    c.strategy.deterministic = True
    c.checkpoint.every_steps = 4
    c.log.every_steps = 2
    c.log.samples_every_steps = 10
    c.log.samples_per_group = 4
    # Named, so that --config.evals.retrieval.data can say where the data are.
    c.evals.retrieval = evaluation("retrieval", "", every_steps=0 if a.reference else 6)
    return c
