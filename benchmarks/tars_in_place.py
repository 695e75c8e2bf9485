"""Figure of `benchmarks.input`: the input pipeline on tars that are read in place, beside shards.

Both manifests are of the same tars and give the same super-batches, bit for bit.
"""

import argparse
import functools

from benchmarks.figures import emit
from jest_tf.data import prepare
from jest_tf.data.manifest import Manifest


def tars_in_place(data, args: argparse.Namespace) -> list[dict]:
    from benchmarks.input import records_per_second, super_batches

    lines = []
    for side in (512, 256):
        out = str(data.root / f"in_place{side}")
        tars = tuple(data.tars(side))
        prepare.prepare(prepare.Settings("webdataset", tars, out, in_place=True))
        manifests = {"tars": Manifest.load(f"{out}/manifest.json"), "shards": data.prepared(side)}
        makers = {
            name: functools.partial(super_batches, data, manifest)
            for name, manifest in manifests.items()
        }
        rate = records_per_second(makers, 256)
        lines.append(
            emit("tars_in_place", rate["tars"] / rate["shards"], ">= 0.9", "x", source_px=side,
                 records_per_second=rate)
        )  # fmt: skip
    return lines
