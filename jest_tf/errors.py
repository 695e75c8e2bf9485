"""The one exception that means: the user can fix this, and the message says how."""


class UserError(ValueError):
    """A wrong input. The message names what, what was found, what was expected, and the fix.

    Entry points print it without a traceback and exit with code 2.
    """
