"""Runs the commands of absl in this process, as a shell would."""

import sys
from collections.abc import Sequence

from jest_tf.errors import UserError


def run(module, arguments: Sequence[str]) -> int:
    """The exit code of `python -m MODULE ARGUMENTS`; a UserError is printed to stderr and is 2."""
    for name in module.FLAGS:
        module.FLAGS[name].unparse()
    try:
        return module.main(module.FLAGS([module.__name__, *map(str, arguments)])) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
