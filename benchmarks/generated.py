"""The generated part of a page that is otherwise written by hand.

It stands between the marks `<!-- NAME: whatever a reader should know -->` and `<!-- /NAME -->`,
each on a line of its own.
"""

import pathlib
import re

from jest_tf.errors import UserError


def fill(page: pathlib.Path, name: str, content: str) -> None:
    """Replaces what stands between the marks of `name`; `content` ends with a line break.

    Raises:
      UserError: the page has no such marks.
    """
    text = page.read_text(encoding="utf-8")
    part = re.compile(f"(<!-- {name}:[^\n]*\n).*?(<!-- /{name} -->)", re.DOTALL)
    text, n_filled = part.subn(lambda m: f"{m[1]}{content}{m[2]}", text)
    if not n_filled:
        raise UserError(
            f"{page} has no section between <!-- {name}: … --> and <!-- /{name} -->; put the two "
            "lines in"
        )
    page.write_text(text, encoding="utf-8")
