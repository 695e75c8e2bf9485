"""JSON from files that others may have written."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """`json.loads`; ValueError also for a text nested thousands of levels deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
