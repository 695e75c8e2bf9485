"""One process that feeds mutated inputs to the readers, with bounded memory, and tells as it goes.

    python -m benchmarks.faults.fuzz.worker SEED COUNT FOLDER [READER:FIRST]

Prints a JSON line before each batch and after it; what stands between them when the process dies is
the finding. An input is a function of (seed, reader, number), so a finding can be made again.
"""

import json
import os
import pathlib
import random
import resource
import shutil
import sys
import traceback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before TensorFlow is imported.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from absl import logging

from benchmarks.faults.fuzz.mutate import mutated
from benchmarks.faults.fuzz.readers import Reader, readers

# Above what the process has mapped once a reader has seen its sound inputs.
ALLOWED_BYTES = 2 << 30


def main(arguments: list[str]) -> None:
    seed, count, folder = int(arguments[0]), int(arguments[1]), pathlib.Path(arguments[2])
    begin_name, _, begin_at = arguments[3].rpartition(":") if arguments[3:] else ("", "", "0")
    logging.set_verbosity(logging.FATAL)  # A line per refused input would hide what matters.
    has_begun = not begin_name
    for reader in readers():
        first = int(begin_at) if reader.name == begin_name else 0
        has_begun = has_begun or reader.name == begin_name
        if has_begun:
            _feed(reader, seed, first, round(count * reader.share), folder / reader.name)
    _tell(end=True)


def _feed(reader: Reader, seed: int, first: int, count: int, folder: pathlib.Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    seeds = reader.seeds(folder)
    _tell(reader=reader.name, first=first, starts=True)
    read = reader.make(folder)
    read(seeds[: reader.batch])
    limit = _mapped_bytes() + ALLOWED_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    for begin in range(first, count, reader.batch):
        inputs = [
            mutated(seeds, random.Random(f"{seed}/{reader.name}/{number}"))
            for number in range(begin, min(begin + reader.batch, count))
        ]
        _tell(reader=reader.name, first=begin, n=len(inputs))
        finding, used = "", 0
        try:
            used = read(inputs)
        except Exception:
            finding = traceback.format_exc(limit=-8)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        _tell(reader=reader.name, first=begin, used=used, finding=finding, peak=peak)


def _mapped_bytes() -> int:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _tell(**event) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
