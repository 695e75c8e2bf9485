"""What a config names → a Manifest."""

import dataclasses
import importlib
import os
import re
import sys
from collections.abc import Sequence

import tensorflow as tf

from jest_tf.data.manifest import Manifest, mix, split
from jest_tf.errors import UserError, explaining

# `SCHEME:NAME` -> the module whose `open_named` gives the manifest of NAME; imported when needed.
SCHEMES = {
    "tfds": "jest_tf.data.tfds_source",
}
_PART = re.compile(r"(?P<name>.+)#(?P<which>all_but|held_out)=(?P<share>0?\.\d+)")


def open_source(name: str, data_dir: str | None = None) -> Manifest:
    """Opens one data set, or a mixture, called `name` as it opens again; UserError: nothing there,
    or weights for some only.

    name is one of
        tfds:BUILDER[/CONFIG]:SPLIT   prepared below `data_dir` if need be, files read in place
        PATH                          a manifest, or the folder that holds a manifest.json
        …#all_but=SHARE, …#held_out=SHARE   without, or only, the last SHARE of each shard
        a@0.7,b@0.3 or a,b            several of these, all with a weight or none
    """
    if part := _PART.fullmatch(name):
        whole = open_source(part["name"], data_dir)
        return split(whole, float(part["share"]), part["which"] == "held_out", name)
    if "," in name:
        return _open_mixture([part.strip() for part in name.split(",")], data_dir)
    scheme, _, rest = name.partition(":")
    if scheme in SCHEMES:
        return importlib.import_module(SCHEMES[scheme]).open_named(rest, data_dir)
    if not tf.io.gfile.exists(name):
        raise UserError(
            f"no data set at {name!r}: expected tfds:BUILDER/CONFIG:SPLIT, a manifest (.json), or "
            "its folder. `python -m jest_tf.prepare` makes a manifest."
        )
    path = name.rstrip("/") + "/manifest.json" if tf.io.gfile.isdir(name) else name
    return dataclasses.replace(Manifest.load(path), name=name)


def _open_mixture(names: Sequence[str], data_dir: str | None) -> Manifest:
    parts = [name.rpartition("@") if "@" in name else (name, "", "") for name in names]
    weighted = [bool(at) for _, at, _ in parts]
    if any(weighted) != all(weighted):
        raise UserError(f"mixture {','.join(names)}: give @WEIGHT to every part, or to none")
    with explaining(ValueError, f"mixture {','.join(names)}: {{error}}; write e.g. a@0.7,b@0.3"):
        weights = [float(weight) for _, _, weight in parts] if all(weighted) else None
    manifests = [open_source(source, data_dir) for source, _, _ in parts]
    return mix(manifests, weights, ",".join(names))


FAILED_MODULES: dict[str, str] = {}


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
        FAILED_MODULES.pop(module, None)
    except Exception as error:  # the user's code may raise anything
        FAILED_MODULES[module] = f"{type(error).__name__}: {error}"


def hint() -> str:
    """What may be wrong when TFDS does not find a set; to append to that message."""
    if not FAILED_MODULES:
        return ". Set data.tfds_module to the Python module that registers a builder of your own."
    failures = "; ".join(f"{module} ({why})" for module, why in FAILED_MODULES.items())
    return f". data.tfds_module could not be imported: {failures}."
