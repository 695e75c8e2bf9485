"""Computes a frozen reference's embeddings of a data set once, so that training reads them.

    python -m jest_tf.cache_reference --reference=runs/reference --data=data/mine --out=cache/mine
    python -m jest_tf.cache_reference --embeddings='siglip/*.parquet' --dim=768 \
        --scale=117.3 --bias=-12.9 --data=data/mine --out=cache/mine
    python -m jest_tf.cache_reference --datacompdr='dr/*.tar' --teacher=0 --data=data/datacomp \
        --out=cache/datacomp

The second form takes any model's embeddings: .npz or .parquet with id, zimg, ztxt (docs/data.md),
the third the embeddings inside DataCompDR's tars (docs/weights.md).
Rerunning goes on where it stopped. `--runner=FlinkRunner -- …` spreads the work by Apache Beam.
"""

import functools
import math
from collections.abc import Callable

from jest_tf import cli, config_flag
from jest_tf.data import units
from jest_tf.errors import UserError

OPENER = "jest_tf.cache_reference:open_units"

FLAGS, _flag = cli.own_flags()
_REFERENCE = _flag("string", "reference", None, "Folder of a finished run.")
_EMBEDDINGS = _flag("list", "embeddings", [], "Files of embeddings instead of a run.")
_DATACOMPDR = _flag("list", "datacompdr", [], "Tars of DataCompDR instead of a run.")
_flag(
    "integer", "teacher", 0, "--datacompdr: which of the two teachers.",
    lower_bound=0, upper_bound=1,
)  # fmt: skip
_flag("float", "scale", None, "Of the embeddings' model.")
_flag("float", "bias", None, "Of the embeddings' model.")
_flag("string", "name", "imported", "Of the embeddings' model.")
_flag("integer", "dim", None, "Width of the embeddings.")
_DATA = _flag("string", "data", None, "Data set, as for training.")
cli.data_flags(_flag)
_OUT = _flag("string", "out", None, "Folder of the cache.")
_flag("enum", "dtype", "float16", "As stored.", enum_values=["float16", "bfloat16"])
_flag("integer", "batch_size", 256, "Records at a time.", lower_bound=1)
_RUNNER = units.runner_flag(_flag)
cli.tpu_flag(_flag)


def main(argv: list[str]) -> None:
    argv, beam = units.beam_of(argv, _RUNNER.value)
    config_flag.refuse_extra(argv)
    if not _DATA.value or not _OUT.value:
        raise UserError("give --data (as for training) and --out (folder of the cache)")
    if sum(map(bool, (_REFERENCE.value, _EMBEDDINGS.value, _DATACOMPDR.value))) != 1:
        raise UserError(
            "give one of --reference (a run), --embeddings (files of any model) and --datacompdr "
            "(its tars)"
        )
    cache = make_cache({name: FLAGS[name].value for name in FLAGS if name != "runner"}, beam)
    print(f"{sum(cache.records):,} records, width {cache.dim}, {cache.dtype} -> {cache.folder}")


def make_cache(given: dict, beam: units.Beam | None):
    """Fills the cache that these flags name; returns it."""
    writer, fill = open_cache(given)
    units.run(beam, OPENER, {"given": given}, writer.missing_shards, fill)
    return writer.finish()


def open_cache(given: dict, on_all: bool = True):
    """(the cache that these flags name, what fills its shards); on_all: on all replicas here."""
    from jest_tf.data.sources import open_source, register
    from jest_tf.runtime.strategy import ONE_DEVICE, of_machine
    from jest_tf.training.cache_fill import filled_by_run
    from jest_tf.training.run.restore import load_workdir

    register(given["tfds_module"])
    run = None
    if given["reference"]:
        runtime = of_machine(given.get("tpu", "")) if on_all else ONE_DEVICE
        with runtime.strategy.scope():
            run = load_workdir(given["reference"])
    manifest = open_source(given["data"], given["data_dir"])
    if run:
        how = {name: given[name] for name in ("dtype", "batch_size")}
        return filled_by_run(run, manifest, given["out"], runtime=runtime, **how)
    return _from_files(given, manifest)


def open_units(given: dict) -> Callable[[int], None]:
    """For `units.run`: several workers may share a machine."""
    _, fill = open_cache(given, on_all=False)
    return lambda index: fill([index])


def _from_files(given: dict, manifest):
    """Of embeddings that are there: DataCompDR's, or files of any model's."""
    from jest_tf.data.datacompdr import DataCompDR
    from jest_tf.data.reference_cache import CacheWriter
    from jest_tf.data.reference_fill import StoredEmbeddings

    dim, scale, bias = (given[name] for name in ("dim", "scale", "bias"))
    if given["datacompdr"]:
        embeddings = DataCompDR(given["datacompdr"], given["teacher"])
        # CLIP's scale is 100 after training. It has no bias, which only a sigmoid loss needs.
        scale, bias = (100.0 if scale is None else scale), (0.0 if bias is None else bias)
        identity, dim = {"datacompdr": f"teacher {given['teacher']}"}, embeddings.dim
    elif None in (dim, scale, bias):
        raise UserError("--embeddings needs --scale, --bias and --dim of the model they are from")
    else:
        embeddings = StoredEmbeddings(given["embeddings"], dim)
        identity = {"imported": given["name"], "files": embeddings.fingerprint}
        print(
            f"{embeddings.places.n:,} embeddings in {len(embeddings.parts)} parts; "
            f"{embeddings.places.n_repeated():,} ids repeat (first kept)"
        )
    if not 0 < scale < math.inf or not math.isfinite(bias):
        raise UserError(
            f"--scale={scale:g} --bias={bias:g}: expected a positive number, such as 117.3 (what "
            "the logits are multiplied by, not its logarithm), and a number."
        )
    of_model = {"identity": identity, "dim": dim, "scale": scale, "bias": bias}
    writer = CacheWriter(given["out"], manifest, dtype=given["dtype"], **of_model)
    return writer, functools.partial(writer.fill, embeddings.rows)


if __name__ == "__main__":
    cli.run(main, FLAGS, kept="finished shards are kept; the same command goes on")
