"""The one exception that means: the user can fix this, and the message says how."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A wrong input: what, what was found, what was expected, the fix. Entry points exit with 2."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the valid name closest to `name`, or nothing."""
    found = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""
