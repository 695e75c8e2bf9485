"""Computes a frozen reference's embeddings of a data set once, so that training reads them.

    python -m jest_tf.cache_reference --reference=runs/reference --data=data/mine --out=cache/mine
    python -m jest_tf.cache_reference --embeddings='siglip/*.parquet' --scale=117.3 --bias=-12.9 \
        --data=data/mine --out=cache/mine
    python -m jest_tf.cache_reference --datacompdr='dr/*.tar' --teacher=0 --data=data/datacomp \
        --out=cache/datacomp

The second form takes any model's embeddings: .npz or .parquet with id, zimg, ztxt (docs/data.md),
the third the embeddings inside DataCompDR's tars (docs/weights.md).
Rerunning goes on where it stopped; `--shard=i/n` spreads the work.
"""

from jest_tf import cli, config_flag
from jest_tf.errors import UserError

FLAGS, _flag = cli.own_flags()
_REFERENCE = _flag("string", "reference", None, "Folder of a finished run.")
_EMBEDDINGS = _flag("list", "embeddings", [], "Files of embeddings instead of a run.")
_DATACOMPDR = _flag("list", "datacompdr", [], "Tars of DataCompDR instead of a run.")
_TEACHER = _flag(
    "integer", "teacher", 0, "--datacompdr: which of the two teachers.",
    lower_bound=0, upper_bound=1,
)  # fmt: skip
_SCALE = _flag("float", "scale", None, "Of the embeddings' model.")
_BIAS = _flag("float", "bias", None, "Of the embeddings' model.")
_NAME = _flag("string", "name", "imported", "Of the embeddings' model.")
_DIM = _flag("integer", "dim", None, "Width of the embeddings.")
_DATA = _flag("string", "data", None, "Data set, as for training.")
_DATA_DIR = _flag("string", "data_dir", None, "Where TFDS keeps its sets.")
_TFDS_MODULE = _flag(
    "string", "tfds_module", "", "Python module that registers a TFDS builder of your own."
)
_OUT = _flag("string", "out", None, "Folder of the cache.")
_DTYPE = _flag("enum", "dtype", "float16", "As stored.", enum_values=["float16", "bfloat16"])
_BATCH = _flag("integer", "batch_size", 256, "Records at a time.")
_SHARD = _flag("string", "shard", "0/1", "i/n: every n-th shard.")


def main(argv: list[str]) -> None:
    """Fills the cache that the flags name."""
    config_flag.refuse_extra(argv)
    if not _DATA.value or not _OUT.value:
        raise UserError("give --data (as for training) and --out (folder of the cache)")
    if sum(map(bool, (_REFERENCE.value, _EMBEDDINGS.value, _DATACOMPDR.value))) != 1:
        raise UserError(
            "give one of --reference (a run), --embeddings (files of any model) and --datacompdr "
            "(its tars)"
        )
    # TensorFlow takes seconds to import: after the flags were found to be right.
    from jest_tf.data.prepare import parse_part
    from jest_tf.data.sources import open_source, register
    from jest_tf.training.cache_fill import cache_of_run
    from jest_tf.training.run.restore import load_workdir

    register(_TFDS_MODULE.value)
    run = load_workdir(_REFERENCE.value) if _REFERENCE.value else None
    manifest = open_source(_DATA.value, _DATA_DIR.value)
    part, parts = parse_part(_SHARD.value)
    if run:
        how = {"dtype": _DTYPE.value, "batch_size": _BATCH.value, "part": part, "parts": parts}
        writer = cache_of_run(run, manifest, _OUT.value, **how)
    else:
        writer = _datacompdr(manifest) if _DATACOMPDR.value else _import(manifest)
    missing = writer.missing_shards()
    if missing:
        print(f"{len(missing):,} shards are still to come from the other parts")
        return
    cache = writer.finish()
    print(f"{sum(cache.records):,} records, width {cache.dim}, {cache.dtype} -> {cache.folder}")


def _writer(manifest, identity: dict, dim: int, scale: float, bias: float):
    from jest_tf.data.reference_cache import CacheWriter

    of_model = {"identity": identity, "dim": dim, "scale": scale, "bias": bias}
    return CacheWriter(_OUT.value, manifest, dtype=_DTYPE.value, **of_model)


def _import(manifest):
    from jest_tf.data.reference_fill import import_embeddings

    if _SCALE.value is None or _BIAS.value is None or _DIM.value is None:
        raise UserError("--embeddings needs --scale, --bias and --dim of the model they are from")
    identity = {"imported": _NAME.value}
    writer = _writer(manifest, identity, _DIM.value, _SCALE.value, _BIAS.value)
    import_embeddings(writer, _EMBEDDINGS.value)
    return writer


def _datacompdr(manifest):
    from jest_tf.data.datacompdr import DataCompDR, import_datacompdr

    embeddings = DataCompDR(_DATACOMPDR.value, _TEACHER.value)
    # CLIP's scale is 100 after training. It has no bias, which only a sigmoid loss needs.
    scale = 100.0 if _SCALE.value is None else _SCALE.value
    bias = 0.0 if _BIAS.value is None else _BIAS.value
    identity = {"datacompdr": f"teacher {_TEACHER.value}"}
    writer = _writer(manifest, identity, embeddings.dim, scale, bias)
    import_datacompdr(writer, embeddings)
    return writer


if __name__ == "__main__":
    cli.run(main, FLAGS, kept="finished shards are kept; the same command goes on")
