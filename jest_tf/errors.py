"""The one exception that means: the user can fix this, and the message says how."""

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator


class UserError(ValueError):
    """A wrong input: what, what was found, what was expected, the fix. Entry points exit with 2."""


def why(error: Exception) -> str:
    """What went wrong, in short and without the path, which stands beside it."""
    text = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    return text.splitlines()[0][:200] if text else type(error).__name__


@contextlib.contextmanager
def explaining(
    kinds: type[Exception] | tuple[type[Exception], ...],
    text: str,
    told: Callable[[Exception], str] = why,
    raises: type[UserError] = UserError,
) -> Iterator[None]:
    """Raises a UserError for errors of these kinds; a UserError passes as it is.

    text: its message, in which {kind} becomes the name of the error and {error} what `told` says.
    """
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        kind = type(error).__name__
        raise raises(text.replace("{kind}", kind).replace("{error}", told(error))) from error


def nearest(name: str, valid: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the valid name closest to `name`, or nothing."""
    found = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""
