"""The config of a run as it lies in a workdir, and as the running version reads it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jest_tf.config import base_config
from jest_tf.errors import UserError
from jest_tf.files import read_json

# Of config.json. Raised when a field changes its meaning; a new field with a default needs nothing.
SCHEMA = 1
_KEY = "schema"


def to_store(config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json holds."""
    return {_KEY: SCHEMA, **config}


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """The config of the run in a workdir, as a nested dict; UserError: none that can be read."""
    file = Path(path) / "config.json"
    if not file.exists():
        raise UserError(f"{path} is not the workdir of a run: it has no config.json.")
    return read_json(file)


def completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of this version, overlaid by `stored`; UserError: a newer one wrote it."""
    schema = stored.get(_KEY, 1)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise UserError(
            f"a newer version of jest_tf wrote this run (config schema {schema}; this one reads "
            f"up to {SCHEMA}). Install that version, or a later one."
        )
    fields = {key: value for key, value in stored.items() if key != _KEY}
    return _overlaid(base_config().to_dict(), fields)


def _overlaid(defaults: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(defaults)
    for key, value in stored.items():
        default = defaults.get(key)
        # Groups that are empty by default hold names of the user's: they are taken as they are.
        is_group = isinstance(value, Mapping) and isinstance(default, Mapping) and default
        found[key] = _overlaid(default, value) if is_group else value
    return found
