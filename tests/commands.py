"""Runs the commands of absl in this process, as a shell would."""

import sys
from collections.abc import Sequence

from absl import flags

from jest_tf import config_flag
from jest_tf.errors import UserError


def run(module, arguments: Sequence[str]) -> int:
    """The exit code of `python -m MODULE ARGUMENTS`; a UserError is printed to stderr and is 2."""
    words = [module.__name__, *map(str, arguments)]
    try:
        own = getattr(module, "FLAGS", flags.FlagValues())
        for name in own:
            own[name].unparse()
        has_config = any(word.startswith("--config") for word in words)
        return module.main(_with_config(own, words) if has_config else own(words)) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _with_config(own: flags.FlagValues, words: list[str]) -> list[str]:
    """What the own flags and absl's global ones, of which --config is one, leave over."""
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)  # overrides of the command before
    flags.FLAGS.unparse_flags()
    flags.FLAGS.append_flag_values(own)
    own.mark_as_parsed()
    before, sys.argv = sys.argv, words
    try:
        return config_flag.parse(words)
    finally:
        flags.FLAGS.remove_flag_values(own)
        sys.argv = before
