"""JSON from files that others may have written."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """`json.loads`, where a text nested thousands of levels deep is an error like any other.

    Raises:
      ValueError: the text is no JSON.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
