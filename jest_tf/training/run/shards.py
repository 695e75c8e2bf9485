"""The files of a checkpoint's variables, and which worker process writes which.

Up to MAX_FILE_BYTES there is one file, `variables.safetensors`, which the chief writes. Beyond, the
layout is Hugging Face's: `variables-00001-of-0000N.safetensors` and an index of what lies where.
Worker process w of n writes files w, w + n, … of these, reads no other variable, and leaves a note
with their checksums. The chief waits for the notes: the folder is what all processes share.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jest_tf.files import parse_json
from jest_tf.training.run.storage import Variable, describe, n_bytes, values_of

VARIABLES = "variables.safetensors"
INDEX = "variables.safetensors.index.json"
NOTE = "share-{:05d}.json"  # of a worker process: the checksums of what it has written
FILE_NAME = re.compile(r"variables-\d{5}-of-\d{5}\.safetensors")
MAX_FILE_BYTES = 5 * 10**9  # as Hugging Face cuts them
# Seconds that the chief waits for the others' files, also when the run is ending by an error.
PATIENCE, SHORT_PATIENCE, POLL = 1800, 30, 0.1


@dataclasses.dataclass(frozen=True)
class Group:
    """The worker processes that save together: which of them this is; rank 0 is the chief.

    token: of this start of the run, the same in all of them. What another start left is ignored.
    """

    rank: int = 0
    size: int = 1
    token: str = ""


ALONE = Group()


@dataclasses.dataclass(frozen=True)
class Share:
    """What is saved, and the values that this process writes.

    described: name -> shape and dtype of every variable. files: file -> its names. values: file ->
    name -> value, of the files that this process writes. others: ranks that write files too.
    """

    described: dict[str, dict[str, Any]]
    files: dict[str, list[str]]
    values: dict[str, dict[str, np.ndarray]]
    others: list[int]

    @classmethod
    def of(cls, variables: Mapping[str, Variable], group: Group) -> "Share":
        """The share of this process, copied to the host; errors as of `values_of`."""
        described = {name: describe(variables[name]) for name in sorted(variables)}
        files = files_of(described, group.size)
        writers = {file: i % group.size for i, file in enumerate(files)}
        values = {
            file: values_of({name: variables[name] for name in names})
            for file, names in files.items()
            if writers[file] == group.rank
        }
        return cls(described, files, values, sorted(set(writers.values()) - {group.rank}))

    @property
    def is_split(self) -> bool:
        return len(self.files) > 1

    def index(self) -> dict[str, Any]:
        total = sum(n_bytes(**of_one) for of_one in self.described.values())
        lies_in = {name: file for file, names in self.files.items() for name in names}
        return {"metadata": {"total_size": total}, "weight_map": lies_in}


def files_of(described: Mapping[str, dict], n_writers: int) -> dict[str, list[str]]:
    """File -> names: one file up to MAX_FILE_BYTES, or several, about one a writer at least.

    A variable is never cut, so a file may be larger.
    """
    sizes = {name: n_bytes(**described[name]) for name in sorted(described)}
    total = sum(sizes.values())
    if total <= MAX_FILE_BYTES:
        return {VARIABLES: list(sizes)}
    bound, groups, filled = min(MAX_FILE_BYTES, -(-total // n_writers)), [[]], 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > bound:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    n = len(groups)
    return {f"variables-{i:05d}-of-{n:05d}.safetensors": g for i, g in enumerate(groups, 1)}


def by_file(folder: Path, stored: Iterable[str]) -> dict[str, dict]:
    """File -> the part of `stored` (name -> description) in it; ValueError: forged index."""
    lies_in = parse_json((folder / INDEX).read_bytes())["weight_map"]
    files: dict[str, dict] = {}
    for name in stored:
        if not FILE_NAME.fullmatch(lies_in[name]):
            raise ValueError(f"{INDEX}: {name} in {lies_in[name]!r}")
        files.setdefault(lies_in[name], {})[name] = stored[name]
    return files
