"""Writes the pairs that an audit lets you keep, for our training or for any other trainer.

    python -m jest_tf.curate --audit=audit.parquet --keep='verdict != "wrong pair"' --out=SUBSET
    python -m jest_tf.curate --audit=audit.parquet --top=0.3 --by=reference_score --out=SUBSET
    python -m jest_tf.curate --audit=audit.parquet --dedup=0.95 --write=manifest,keys.csv --out=…

The steps follow in this order: --keep, --dedup, --top. `--write` names what is written: `manifest`
(a data set that `train` reads), `keys.csv`, `keys.parquet` (the rows of the audit), `uids.npy` (as
DataComp lists a subset), `tars` (the members of `--tars`, copied). `--runner=FlinkRunner -- …` does
the comparisons of --dedup by Apache Beam.
"""

import csv
import os

from jest_tf import cli, config_flag
from jest_tf.data import units
from jest_tf.errors import UserError, explaining
from jest_tf.files import replacing

FLAGS, _flag = cli.own_flags()
WRITTEN = ("manifest", "keys.csv", "keys.parquet", "uids.npy", "tars")
_AUDIT = _flag("string", "audit", None, "Table of `jest audit`.")
_KEEP = _flag("string", "keep", None, "Rule over its columns.")
_TOP = _flag(
    "float", "top", None, "Keep this share of all pairs: the best --by.",
    lower_bound=0.0, upper_bound=1.0,
)  # fmt: skip
_BY = _flag(
    "string", "by", None, "Column whose highest values are best; -NAME: lowest. Default: "
    "reference_score, or -reference_loss where the audit has none (no --reference).",
)  # fmt: skip
_PER_SOURCE = _flag("bool", "per_source", False, "--top: the share of each source.")
_DEDUP = _flag(
    "float", "dedup", None, "Keep one of the pictures that are this near (1: the same).",
    lower_bound=-1.0, upper_bound=1.0,
)  # fmt: skip
_EMBEDDINGS = _flag("string", "embeddings", None, "--dedup: a cache; default: AUDIT.reference.")
_DATA = _flag("string", "data", None, "The audited data set, to write a manifest.")
_DATA_DIR, _TFDS_MODULE = cli.data_flags(_flag)
_TARS = _flag("list", "tars", [], "Tars that the data came from.")
_WRITE = _flag("list", "write", ["manifest"], f"What to write: {', '.join(WRITTEN)}.")
_OUT = _flag("string", "out", None, "Folder of the subset.")
_RUNNER = units.runner_flag(_flag)


def main(argv: list[str]) -> None:
    argv, beam = units.beam_of(argv, _RUNNER.value)
    config_flag.refuse_extra(argv)
    if not _AUDIT.value or not _OUT.value:
        raise UserError("give --audit (a table of `jest audit`) and --out (folder of the subset)")
    if unknown := set(_WRITE.value) - set(WRITTEN):
        raise UserError(f"--write={', '.join(sorted(unknown))}: expected some of {WRITTEN}")
    if "tars" in _WRITE.value and not _TARS.value:
        raise UserError("--write=tars copies from --tars: give the tars that the data came from")
    from jest_tf.data import subset
    from jest_tf.data.sources import open_source, register
    from jest_tf.monitoring.audit import read_about

    about, manifest = read_about(_AUDIT.value), None
    if "manifest" in _WRITE.value:
        register(_TFDS_MODULE.value)
        try:
            manifest = open_source(_DATA.value or about["data_name"], _DATA_DIR.value)
        except UserError as error:
            text = f"cannot open the audited data: {error} --data says where they lie now."
            raise UserError(text) from error
        if manifest.fingerprint != about["data"]:
            raise UserError(
                f"{_AUDIT.value} is an audit of another data set: {about['data_name']}, "
                f"fingerprint {about['data']}, not of {manifest.name} ({manifest.fingerprint})."
            )
        subset.require_own(_OUT.value)
    choice = _choose(about, beam)
    n, total = int(choice.kept.sum()), len(choice.kept)
    if not n:
        raise UserError("no pair of the audit is kept: loosen --keep or --top.")
    # What the kept pairs may not allow comes before anything is written.
    uids = subset.uids(choice.kept_keys()) if "uids.npy" in _WRITE.value else None
    if "tars" in _WRITE.value:
        subset.require_tars(_TARS.value, choice.kept_keys(), f"{_OUT.value}/tars")
    print(f"{n:,} of {total:,} pairs ({n / total:.1%}) are kept")
    told = f"--out={_OUT.value} cannot be written: {{error}}. Free disk space, or name a folder "
    with explaining(OSError, told + "that can be written to."):
        os.makedirs(_OUT.value, exist_ok=True)
        for name in _WRITE.value:
            _write(name, choice, manifest, uids)
            print(f"wrote {name} -> {_OUT.value}")


def _choose(about: dict, beam: units.Beam | None):
    from jest_tf.data.reference_cache import ReferenceCache
    from jest_tf.monitoring.choosing import Choice

    choice = Choice(_AUDIT.value)
    if _KEEP.value is not None:
        choice.keep(_KEEP.value)
    if _DEDUP.value is not None:
        folder = _EMBEDDINGS.value or f"{_AUDIT.value}.reference"
        is_there = _EMBEDDINGS.value or os.path.exists(f"{folder}/cache.json")
        cache = ReferenceCache.load(folder) if is_there and _DEDUP.value < 1 else None
        if cache and cache.data != about["data"]:
            raise UserError(f"{folder} holds embeddings of another data set than {_AUDIT.value}.")
        removed = choice.dedup(
            _DEDUP.value, _BY.value, cache, f"{_OUT.value}/near_duplicates.parts", beam
        )
        print(f"{removed:,} near duplicates are left out")
    if _TOP.value is not None:
        choice.top(_TOP.value, _BY.value, _PER_SOURCE.value)
    return choice


def _write(name: str, choice, manifest, uids) -> None:
    import numpy as np

    from jest_tf.data import subset

    out, path = _OUT.value, f"{_OUT.value}/{name}"
    if name == "manifest":
        subset.write_manifest(manifest, choice.kept, out, f"{manifest.name} (curated)")
    elif name == "uids.npy":
        with replacing(path) as aside, open(aside, "wb") as file:
            np.save(file, uids)
    elif name == "tars":
        subset.copy_tars(_TARS.value, choice.kept_keys(), f"{out}/tars")
    elif name == "keys.parquet":
        choice.write_rows(path)
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["key"], *([key] for key in choice.kept_keys())])


if __name__ == "__main__":
    cli.run(main, FLAGS, kept="finished shards are kept; the same command goes on")
