"""Mistreats runs and inputs at length, and keeps the figures that docs/guarantees.md shows.

    python -m benchmarks.faults --part=kills   # 100 times kill -9, about half an hour
    python -m benchmarks.faults --part=fuzz    # 100,000 mutated inputs
    python -m benchmarks.faults --part=soak    # two hours of training
    python -m benchmarks.faults --part=scale   # 10 million records, 1,000 shards, a bad disk
    python -m benchmarks.faults --part=page    # writes docs/guarantees.md from the results

Prints JSON lines {figure, value, goal, unit, …}; each replaces the figure of that name in
--results. A part that was interrupted leaves the figures of what it reached.
"""

import argparse
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before TensorFlow is imported.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from benchmarks.faults.results import Results  # noqa: E402

RESULTS = "benchmarks/measured/faults.jsonl"
PAGE = pathlib.Path("docs/guarantees.md")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one part; returns the exit code, 1 where a promise did not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", required=True, choices=("kills", "fuzz", "soak", "scale", "page"))
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path(RESULTS))
    parser.add_argument("--workdir", type=pathlib.Path, help="kept; by default a temporary folder")
    parser.add_argument("--n_kills", type=int, default=100)
    parser.add_argument("--n_inputs", type=int, default=110_000, help="of the fuzzer")
    parser.add_argument("--seed", type=int, default=0, help="of kills and mutations")
    parser.add_argument("--minutes", type=float, default=120.0, help="of the soak; 0: report again")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.workdir or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return _run(args, Results(args.results), folder)


def _run(args: argparse.Namespace, results: Results, folder: pathlib.Path) -> int:
    if args.part == "kills":
        from benchmarks.faults.kills import kills

        return kills(results, folder, args.n_kills, args.seed)
    if args.part == "fuzz":
        from benchmarks.faults.fuzz.watch import fuzz

        return fuzz(results, folder, args.n_inputs, args.seed)
    if args.part == "soak":
        from benchmarks.faults.soak import soak

        soak(results, folder, args.minutes)
    if args.part == "scale":
        from benchmarks.faults.scale import scale

        return scale(results, folder)
    if args.part == "page":
        from benchmarks.faults import page

        page.write(args.results, PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
