"""Which pairs of a data set are good? One row a pair, with a verdict and the rule that gave it.

    python -m jest_tf.audit --workdir=runs/joint --out=audit.parquet
    python -m jest_tf.audit --data=data/mine --reference=runs/reference --out=audit.parquet
    python -m jest_tf.audit --data=data/mine --reference=runs/reference --learner=runs/mine \
        --out=audit.parquet

The first form reads what a run has learned about its pairs while it trained, the others score a
set without training: `--reference` and `--learner` are runs, or folders of `cache_reference`.
Given together with --workdir they take the place of the run's losses. Also writes a page with
pictures beside the table. Rerunning goes on where it stopped. `--runner=FlinkRunner -- …` spreads
the work by Apache Beam.
"""

import functools
import os
from collections.abc import Callable

from jest_tf import cache_reference, cli, config_flag
from jest_tf.data import units
from jest_tf.errors import UserError
from jest_tf.files import read_object, write_atomically

MODELS = ("reference", "learner")
FLAGS, _flag = cli.own_flags()
_WORKDIR = _flag("string", "workdir", None, "Folder of a run.")
_DATA = _flag("string", "data", None, "Data set, as for training; by default the run's.")
cli.data_flags(_flag)
_REFERENCE = _flag("string", "reference", None, "The model that judges: a run, or a cache of it.")
_flag("string", "learner", None, "A model that may have learned the pairs, likewise.")
_OUT = _flag("string", "out", None, "The table, NAME.parquet.")
_flag("bool", "pictures", False, "Keep a thumbnail in each row, for other tools.")
_WRONG_SHARE = _flag(
    "float", "wrong_share", None, "Judge this share wrong, instead of what the ranks tell.",
    lower_bound=0.0, upper_bound=1.0,
)  # fmt: skip
_flag("integer", "batch_size", 256, "Pairs scored at a time.", lower_bound=1)
_WORKERS = _flag("integer", "workers", 4, "Shards read at once.", lower_bound=1)
_RUNNER = units.runner_flag(_flag)


def main(argv: list[str]) -> None:
    argv, beam = units.beam_of(argv, _RUNNER.value)
    config_flag.refuse_extra(argv)
    out = _OUT.value or ""
    if not out.endswith(".parquet"):
        raise UserError(f"--out={out}: give the table to write, as in --out=audit.parquet")
    if not _WORKDIR.value and not (_DATA.value and _REFERENCE.value):
        raise UserError("give --workdir (a run), or --data and --reference (a model that judges)")
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    from jest_tf.monitoring import audit

    given = {name: FLAGS[name].value for name in FLAGS}
    for name in MODELS:
        _embed(given, name, beam)
    audited = open_audit(given)

    left = functools.partial(audit.missing_parts, audited, out)
    here = functools.partial(audit.in_threads, audited, out, _WORKERS.value)
    audit.begin(audited, out)
    units.run(beam, "jest_tf.audit:open_units", {"given": given}, left, here)
    audit.finish(audited, out, _WRONG_SHARE.value)
    page = out.removesuffix(".parquet") + ".html"
    write_atomically(page, audit.page(out, audited.manifest, cli.made_by("jest_tf.audit")))
    print(f"{audited.manifest.n_records:,} pairs -> {out}, {page}")


def open_units(given: dict) -> Callable[[int], None]:
    """For `units.run`."""
    from jest_tf.monitoring import audit

    return audit.unit_of(open_audit(given), given["out"])


def open_audit(given: dict):
    """What these flags audit; the embeddings of runs are there already."""
    from jest_tf.data.reference_cache import ReferenceCache
    from jest_tf.monitoring.audit import Audit

    ledger, manifest = _inputs(given)
    caches = {}
    for name in MODELS:
        if given[name]:
            folder = given[name] if not _is_run(given[name]) else f"{given['out']}.{name}"
            caches[name] = ReferenceCache.load(folder)
            caches[name].check_manifest(manifest)
    return Audit(manifest, ledger, pictures=given["pictures"], **caches)


def _inputs(given: dict):
    """(ledger or None, manifest), which belong together."""
    from jest_tf.data.sources import open_source, register
    from jest_tf.monitoring.ledger import read_ledger
    from jest_tf.training.run.workdir import stored_config

    workdir = given["workdir"]
    if not workdir:
        register(given["tfds_module"])
        return None, open_source(given["data"], given["data_dir"])
    config = stored_config(workdir)
    register(given["tfds_module"] or config.data.tfds_module)
    ledger = read_ledger(os.path.join(workdir, "ledger"))
    data_dir = given["data_dir"] or config.data.data_dir
    manifest = open_source(given["data"] or config.data.train, data_dir)
    trained_on = read_object(os.path.join(workdir, "inputs.json"), "fingerprints").get("data")
    if manifest.fingerprint != trained_on:
        raise UserError(
            f"{manifest.name} (fingerprint {manifest.fingerprint}) is not what the run in "
            f"{workdir} trained on ({trained_on}). Give that data set as --data."
        )
    return ledger, manifest


def _is_run(name: str) -> bool:
    return os.path.exists(os.path.join(name, "config.json"))


def _embed(given: dict, name: str, beam: units.Beam | None) -> None:
    """Computes the embeddings of `given[name]` into OUT.name, where it is a run."""
    if not given[name] or not _is_run(given[name]):
        return
    from jest_tf.training.run.workdir import stored_config

    stored = stored_config(given["workdir"]).data if given["workdir"] else None
    wanted = {"reference": given[name], "out": f"{given['out']}.{name}", "dtype": "float16"}
    wanted["batch_size"] = given["batch_size"]
    wanted |= {
        key: given[key] or (stored[of] if stored else given[key])
        for key, of in (("data", "train"), ("data_dir", "data_dir"), ("tfds_module", "tfds_module"))
    }
    cache_reference.make_cache(wanted, beam)


if __name__ == "__main__":
    cli.run(main, FLAGS, kept="finished shards are kept; the same command goes on")
