"""One worker of the run in test_multi_worker.py: joint selection, with one evaluation.

    python multi_worker_run.py KIND DATA_DIR WORKDIR [STEP SIGNAL WORKER]

After STEP, and once the checkpoint before it is written, worker WORKER sends itself SIGNAL, as the
machine would before or in a preemption. Checkpoints are cut into small files.
"""

import json
import os
import signal
import sys
import time

STEPS = 12
SAVED_EVERY = 4
FILE_BYTES = 100_000


def config_of(kind: str, data_dir: str):
    from ml_collections import ConfigDict
    from small_run import ONE_BLOCK

    from jest_tf.config import base_config, evaluation

    c = base_config()
    c.total_steps, c.optimizer.warmup_steps = STEPS, 2
    c.data.data_dir, c.data.train = data_dir, os.path.join(data_dir, "data.json")
    c.data.vocab_size, c.data.n_tokens, c.data.n_lanes = 60, 8, 2
    c.data.image_size = c.model.image_size = 16
    c.model.variant, c.model.sizes = "nano", ConfigDict(ONE_BLOCK)
    c.selection.policy, c.selection.criterion = "joint", "hard_learner"  # needs no reference
    c.selection.super_batch, c.selection.sub_batch, c.selection.n_chunks = 32, 8, 2
    c.strategy.kind = kind
    c.strategy.jit_compile = False
    c.log.every_steps = c.checkpoint.every_steps = SAVED_EVERY
    c.evals = {"retrieval": evaluation("retrieval", c.data.train, batch_size=15)}
    return c


def main() -> int:
    from quick_imports import quick_imports

    with quick_imports():
        import tensorflow as tf

    from jest_tf.training import loop
    from jest_tf.training.run import shards

    # As in conftest.py: a graph that runs a few times is not worth rewriting.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    shards.MAX_FILE_BYTES = FILE_BYTES
    kind, data_dir, workdir, *when = sys.argv[1:]

    def signal_if_told(step, result) -> None:
        worker = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
        if when and (step, worker) == (int(when[0]), int(when[2])):
            # Written while training goes on: on a busy machine steps may be ahead of it.
            saved = step // SAVED_EVERY * SAVED_EVERY
            while not os.path.exists(f"{workdir}/checkpoints/step-{saved:08d}"):
                time.sleep(0.1)
            os.kill(os.getpid(), signal.Signals[when[1]])

    return loop.train(config_of(kind, data_dir), workdir, signal_if_told)


if __name__ == "__main__":
    sys.exit(main())
