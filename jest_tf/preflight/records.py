"""What reading every record of the training data brings to light, as a section of the page."""

import math

from ml_collections import ConfigDict

from jest_tf.data import doctor
from jest_tf.data.sources import open_source, register
from jest_tf.preflight.report import Section


def check_records(config: ConfigDict, n_replicas: int, folder: str) -> Section:
    """Reads and decodes all of `data.train`; writes JSON and a page with samples to `folder`."""
    register(config.data.tfds_module)
    with Section(f"All records of {config.data.train}") as section:
        manifest = open_source(config.data.train, config.data.data_dir)
        report = doctor.examine(manifest)
        _describe(section, report, doctor.write(report, folder))
        doctor.check_bound(report, config.data.max_bad_share)
        section.problems += _too_few_usable(config, n_replicas, report)
    return section


def _describe(section: Section, report: doctor.Report, written: tuple[str, str]) -> None:
    for name, source in report.sources.items():
        kinds = [f"{n:,} {kind.replace('_', ' ')}" for kind, n in source.counts.most_common()]
        section.add(name, f"{source.records:,} records; {', '.join(kinds) or 'nothing wrong'}")
    section.add("repeated", f"{report.duplicate_ids:,} ids, {report.duplicate_captions:,} captions")
    if named := [f"{text[:40]!r} {n:,} x" for text, n in report.most_repeated.items()][:5]:
        section.add("most often", ", ".join(named))
    section.add("written", " and ".join(written))
    section.problems += [f"{path}: {why}" for path, why in report.unreadable_shards.items()]
    if report.shared_ids:
        section.problems.append(
            f"{report.shared_ids:,} ids are those of records of another source: embeddings by id "
            "would go to the wrong record. Prepare one of the sources again with another --name."
        )


def _too_few_usable(config: ConfigDict, n_replicas: int, report: doctor.Report) -> list[str]:
    """A run whose steps would be refused, because they load hardly more than they train on."""
    s = config.selection
    multiple = math.lcm(config.data.n_lanes, n_replicas)
    needed = spare_super_batch(s.sub_batch, report.bad / report.records, multiple)
    if not report.bad or s.super_batch >= needed:
        return []
    return [
        f"{report.bad:,} of {report.records:,} records cannot be used, and a step loads "
        f"{s.super_batch} to train on {s.sub_batch}: steps with fewer usable ones are refused. Set "
        f"--config.selection.super_batch={needed}, or prepare the data again without them."
    ]


# Standard deviations of the number of bad records in a step that are kept in reserve: about one
# step in 30,000 is still refused.
DEVIATIONS = 4


def spare_super_batch(sub_batch: int, bad_share: float, multiple_of: int = 1) -> int:
    """The smallest super-batch that practically always holds `sub_batch` usable records.

    A step with fewer is refused: with B = b, 1% of bad records would refuse nearly all. Their
    number among B is taken as binomial. bad_share: below 1. multiple_of: what B must be divisible
    by.
    """
    size = -(-sub_batch // multiple_of) * multiple_of
    while True:
        bad = size * bad_share + DEVIATIONS * (size * bad_share * (1 - bad_share)) ** 0.5
        if size - bad >= sub_batch:
            return size
        size += multiple_of
