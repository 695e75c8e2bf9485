"""JSON from files that others may have written."""

import json
import os
from typing import Any

from jest_tf.errors import UserError


def parse_json(text: str | bytes) -> Any:
    """`json.loads`; ValueError also for a text nested thousands of levels deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: str | os.PathLike) -> Any:
    """Content of a local file; UserError: it cannot be read as JSON."""
    try:
        with open(path, encoding="utf-8") as file:
            return parse_json(file.read())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as JSON: {error}. Restore it from a copy."
        ) from error
