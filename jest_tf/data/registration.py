"""Data sets that TFDS does not know by itself: a module of the user's registers their builder."""

import importlib
import os
import sys

_FAILED: dict[str, str] = {}


def register(module: str) -> None:
    """Imports `module` (installed, or below the working directory), which defines a TFDS builder.

    A failure is kept for the message of `hint`: a prepared set can be read without its builder.
    """
    if not module:
        return
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
        _FAILED.pop(module, None)
    except Exception as error:  # the user's code may raise anything
        _FAILED[module] = f"{type(error).__name__}: {error}"


def hint() -> str:
    """What may be wrong when TFDS does not find a set; to append to that message."""
    if not _FAILED:
        return ". Set data.tfds_module to the Python module that registers a builder of your own."
    failures = "; ".join(f"{module} ({why})" for module, why in _FAILED.items())
    return f". data.tfds_module could not be imported: {failures}."
