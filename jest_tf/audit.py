"""Which pairs of a data set are good? One row a pair, with a verdict and the rule that gave it.

    python -m jest_tf.audit --workdir=runs/joint --out=audit.parquet
    python -m jest_tf.audit --data=data/mine --reference=runs/reference --out=audit.parquet
    python -m jest_tf.audit --data=data/mine --reference=runs/reference --learner=runs/mine \
        --out=audit.parquet

The first form reads what a run has learned about its pairs while it trained, the others score a
set without training: `--reference` and `--learner` are runs, or folders of `cache_reference`.
Given together with --workdir they take the place of the run's losses. Also writes a page with
pictures beside the table. Rerunning goes on where it stopped.
"""

import datetime
import os
import shlex
import sys

from jest_tf import cli, config_flag
from jest_tf.errors import UserError
from jest_tf.files import read_json, write_atomically

FLAGS, _flag = cli.own_flags()
_WORKDIR = _flag("string", "workdir", None, "Folder of a run.")
_DATA = _flag("string", "data", None, "Data set, as for training; by default the run's.")
_DATA_DIR = _flag("string", "data_dir", None, "Where TFDS keeps its sets.")
_TFDS_MODULE = _flag(
    "string", "tfds_module", "", "Python module that registers a TFDS builder of your own."
)
_REFERENCE = _flag(
    "string", "reference", None, "The model that judges: a run, or a cache of its embeddings."
)
_LEARNER = _flag(
    "string", "learner", None, "A model that may have learned the pairs: a run, or a cache."
)
_OUT = _flag("string", "out", None, "The table, NAME.parquet.")
_PAGE = _flag("string", "page", None, "The page; by default OUT.html.")
_PICTURES = _flag(
    "bool", "pictures", False, "Keep a thumbnail in each row, for tools that show pictures."
)
_WRONG_SHARE = _flag(
    "float",
    "wrong_share",
    None,
    "Judge this share wrong, instead of what the ranks tell.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_BATCH = _flag("integer", "batch_size", 256, "Pairs scored at a time.")
_WORKERS = _flag("integer", "workers", 4, "Shards read at once.", lower_bound=1)


def main(argv: list[str]) -> None:
    """Writes table and page."""
    config_flag.refuse_extra(argv)
    out = _OUT.value or ""
    if not out.endswith(".parquet"):
        raise UserError(f"--out={out}: give the table to write, as in --out=audit.parquet")
    if not _WORKDIR.value and not (_DATA.value and _REFERENCE.value):
        raise UserError("give --workdir (a run), or --data and --reference (a model that judges)")
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    # TensorFlow takes seconds to import: after the flags were found to be right.
    from jest_tf.monitoring import audit, audit_page

    ledger, manifest = _inputs()
    audited = audit.Audit(
        manifest,
        ledger,
        reference=_cache(_REFERENCE.value, manifest, f"{out}.reference"),
        learner=_cache(_LEARNER.value, manifest, f"{out}.learner"),
        pictures=_PICTURES.value,
    )
    audit.make(audited, out, wrong_share=_WRONG_SHARE.value, workers=_WORKERS.value)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    command = shlex.join(["python", "-m", "jest_tf.audit", *sys.argv[1:]])
    page = _PAGE.value or out.removesuffix(".parquet") + ".html"
    write_atomically(page, audit_page.page(out, manifest, f"{now}, by {command}"))
    print(f"{manifest.n_records:,} pairs -> {out}, {page}")


def _inputs():
    """(ledger or None, manifest), which belong together."""
    from jest_tf.data.sources import open_source, register
    from jest_tf.monitoring.ledger import read_ledger
    from jest_tf.training.run.workdir import stored_config

    if not _WORKDIR.value:
        register(_TFDS_MODULE.value)
        return None, open_source(_DATA.value, _DATA_DIR.value)
    config = stored_config(_WORKDIR.value)
    register(_TFDS_MODULE.value or config.data.tfds_module)
    ledger = read_ledger(os.path.join(_WORKDIR.value, "ledger"))
    data_dir = _DATA_DIR.value or config.data.data_dir
    manifest = open_source(_DATA.value or config.data.train, data_dir)
    trained_on = read_json(os.path.join(_WORKDIR.value, "inputs.json"))["data"]
    if manifest.fingerprint != trained_on:
        raise UserError(
            f"{manifest.name} (fingerprint {manifest.fingerprint}) is not what the run in "
            f"{_WORKDIR.value} trained on ({trained_on}). Give that data set as --data."
        )
    return ledger, manifest


def _cache(name: str | None, manifest, folder: str):
    """The embeddings of `name`: its own where it is a cache; a run's are computed into `folder`."""
    from jest_tf.data.reference_cache import ReferenceCache
    from jest_tf.training.cache_fill import cache_of_run
    from jest_tf.training.run.restore import load_workdir

    if not name:
        return None
    if os.path.exists(os.path.join(name, "config.json")):
        writer = cache_of_run(
            load_workdir(name), manifest, folder, dtype="float16", batch_size=_BATCH.value
        )
        return writer.finish()
    cache = ReferenceCache.load(name)
    cache.check_manifest(manifest)
    return cache


if __name__ == "__main__":
    cli.run(main, FLAGS, kept="finished shards are kept; the same command goes on")
