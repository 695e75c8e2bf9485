"""Figure of `benchmarks.input`: the input pipeline on tars that are read in place, beside shards.

Both manifests are of the same tars and give the same super-batches, bit for bit. Each turn is a
pipeline of its own, alone on the machine: two that are open at once fill their buffers in each
other's time. The median turn counts, by processor time and by the clock.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.figures import emit
from jest_tf.data import prepare
from jest_tf.data.manifest import Manifest

BATCH, PER_TURN, TURNS = 256, 5, 4


def seconds(iterator: Iterator) -> tuple[float, float]:
    """Of processor and clock, for the batches of a turn."""
    next(iterator)  # starts threads, traces
    before = time.process_time(), time.perf_counter()
    for _ in range(PER_TURN):
        next(iterator)
    return time.process_time() - before[0], time.perf_counter() - before[1]


def tars_in_place(data, args: argparse.Namespace) -> list[dict]:
    from benchmarks.input import super_batches

    lines = []
    for side in (512, 256):
        out = str(data.root / f"in_place{side}")
        tars = tuple(data.tars(side))
        prepare.prepare(prepare.Settings("webdataset", tars, out, in_place=True))
        manifests = {"tars": Manifest.load(f"{out}/manifest.json"), "shards": data.prepared(side)}
        turns = [
            {name: seconds(super_batches(data, m, BATCH)) for name, m in manifests.items()}
            for _ in range(TURNS)
        ]
        taken = {name: np.median([turn[name] for turn in turns], axis=0) for name in manifests}
        cpu, clock = (taken["shards"] / taken["tars"]).tolist()
        rates = {name: BATCH * PER_TURN / float(taken[name][0]) for name in manifests}
        lines.append(
            emit("tars_in_place", cpu, ">= 0.9", "x", source_px=side, by_the_clock=clock,
                 records_per_processor_second=rates)
        )  # fmt: skip
    return lines
