"""Trains a contrastive image-text model that selects its training data.

    python -m jest_tf.train --config=configs/emoji.py:policy=uniform --workdir=runs/uniform

Any field can be overridden, e.g. `--config.optimizer.learning_rate=3e-4`. Rerunning the same
command continues the run. Exit codes:

    0    all steps done
    1    an error that is not the user's, with its traceback; the last checkpoint is kept
    2    wrong input: the message says what to fix
    3    too many refused steps in a row, or an evaluation fell below log.min_score_share of its
         score at step 0; the last good state is saved
    4    another worker process or TPU host is gone; the last checkpoint is kept
    130  Ctrl-C; saved, the same command continues
    143  SIGTERM (preemption, `kill`); saved, the same command continues
"""

from absl import flags

from jest_tf import cli, config_flag
from jest_tf.config import settle
from jest_tf.config_checks import problems, require_sound
from jest_tf.errors import UserError
from jest_tf.tuning import follow_init

_CONFIG = config_flag.define()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run: created, or continued.")


def main(argv: list[str]) -> int:
    """Checks the config before TensorFlow is imported, then trains; returns the exit code."""
    config_flag.refuse_extra(argv)
    config = config_flag.value_of(_CONFIG)
    if not _WORKDIR.value:
        raise UserError("--workdir is missing. Give the folder to write this run in.")
    follow_init(config, _WORKDIR.value)
    require_sound(problems(config))
    settle(config)

    # Importing TensorFlow takes seconds: only for a sound config.
    from jest_tf.training import loop

    return loop.train(config, _WORKDIR.value)


if __name__ == "__main__":
    cli.run(main, kept="the newest checkpoint is kept; the same command continues from it")
