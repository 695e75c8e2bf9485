"""One worker of the run in test_multi_worker.py: the shipped config, shrunk, with one evaluation.

    python multi_worker_run.py KIND DATA_DIR WORKDIR [STEP SIGNAL WORKER]

After STEP, worker WORKER sends itself SIGNAL, as the machine would before or in a preemption.
Checkpoints are cut into small files.
"""

import dataclasses
import json
import os
import pathlib
import signal
import sys

EMOJI = pathlib.Path(__file__).parents[2] / "configs" / "emoji.py"
STEPS = 20
SAVED_EVERY = 4
FILE_BYTES = 300_000


def config_of(kind: str, data_dir: str):
    from jest_tf import config_flag
    from jest_tf.config import evaluation

    c = config_flag.load(EMOJI, "criterion=hard_learner")  # needs no reference
    c.total_steps = STEPS
    c.optimizer.warmup_steps = 2
    c.data.data_dir = data_dir
    c.data.train = c.data.vocab_from = "tfds:emoji_captions/eval_retrieval:test"  # 1,362 pairs
    c.data.vocab_size = 300
    c.data.image_size = c.model.image_size = 16
    c.selection.super_batch, c.selection.sub_batch, c.selection.n_chunks = 32, 8, 2
    c.strategy.kind = kind
    c.strategy.jit_compile = False
    c.log.every_steps = 10
    c.checkpoint.every_steps = SAVED_EVERY
    c.evals = {"retrieval": evaluation("retrieval", f"{c.data.train}[:48]", batch_size=15)}
    return c


def shrink_towers() -> None:
    """One block instead of mu's: tracing and compiling them is most of what the test costs."""
    from jest_tf.models.dual_encoder import VARIANTS

    mu = VARIANTS["mu"]
    image, text = (dataclasses.replace(tower, depth=1) for tower in (mu.image, mu.text))
    VARIANTS["mu"] = dataclasses.replace(mu, image=image, text=text)


def main() -> int:
    from jest_tf.training import loop
    from jest_tf.training.run import shards

    shrink_towers()
    shards.MAX_FILE_BYTES = FILE_BYTES
    kind, data_dir, workdir, *when = sys.argv[1:]

    def signal_if_told(step, result) -> None:
        worker = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
        if when and (step, worker) == (int(when[0]), int(when[2])):
            os.kill(os.getpid(), signal.Signals[when[1]])

    return loop.train(config_of(kind, data_dir), workdir, signal_if_told)


if __name__ == "__main__":
    sys.exit(main())
