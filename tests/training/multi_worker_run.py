"""One worker of the run in test_multi_worker.py: the shipped config, shrunk, with one evaluation.

    python multi_worker_run.py KIND DATA_DIR WORKDIR [STEP]

STEP: after it the chief kills itself, as the machine would in a preemption without notice.
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
    """Two blocks instead of mu's: tracing and compiling them is most of what the test costs."""
    from jest_tf.models.dual_encoder import VARIANTS

    mu = VARIANTS["mu"]
    image, text = (dataclasses.replace(tower, depth=2) for tower in (mu.image, mu.text))
    VARIANTS["mu"] = dataclasses.replace(mu, image=image, text=text)


def main() -> int:
    from jest_tf.training import loop

    shrink_towers()
    kind, data_dir, workdir, *killed_after = sys.argv[1:]

    def die_if_told(step, result) -> None:
        is_chief = json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0
        if killed_after and step == int(killed_after[0]) and is_chief:
            os.kill(os.getpid(), signal.SIGKILL)

    return loop.train(config_of(kind, data_dir), workdir, die_if_told)


if __name__ == "__main__":
    sys.exit(main())
