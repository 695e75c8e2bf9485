"""The data and the reference that a config names, as far as they can be seen without training."""

import math
import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from jest_tf.config import needs_reference
from jest_tf.config_checks import data_problems
from jest_tf.data import doctor, fields, in_place, order
from jest_tf.data.fields import hash64, is_text
from jest_tf.data.manifest import Manifest, check_files
from jest_tf.data.records import RecordReader
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.data.sources import open_source, register
from jest_tf.data.tfds_source import find_builder
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError, explaining
from jest_tf.evaluation.evaluators import require_data
from jest_tf.preflight.report import Section
from jest_tf.training import inputs
from jest_tf.training.run.checkpoint import Checkpointer
from jest_tf.training.run.workdir import stored_config

# A vocabulary of so few records is learned at once; of more, by the run itself.
SMALL = 200_000
# Share of the captions that may lose words before it is a problem.
MOST_CUT = 0.05


def check_data(config: ConfigDict, n_hosts: int) -> Section:
    """Shards against hosts, one decoded record, its tokens."""
    register(config.data.tfds_module)
    with Section(f"Data: {config.data.train}") as section:
        builders = {n: find_builder(n, config.data.data_dir) for n in _tfds_names(config)}
        if missing := ", ".join(name for name, b in builders.items() if not b.is_prepared()):
            section.add("not prepared yet", f"{missing}: a run does so first; then check again")
            return section
        manifest = open_source(config.data.train, config.data.data_dir)
        check_files(manifest)
        _describe(section, config, manifest, n_hosts)
        caption = _one_record(section, config, manifest)
        _tokens(section, config, caption)
        for name, spec in config.evals.items():
            sources = [spec.get(role, "") for role in ("data", "train", "validation")]
            if not any("tfds:" in source for source in sources):  # which that would prepare
                require_data(name, spec.to_dict(), config.data.data_dir)
                section.add(f"evaluation {name}", f"{spec.kind} on {spec.data}")
    return section


def check_reference(config: ConfigDict) -> Section:
    """Whether the reference exists and reads one super-batch as the learner does."""
    cache = config.reference.cache
    is_own = cache and cache == config.model.image.cache
    if is_own and not tf.io.gfile.exists(f"{cache}/cache.json"):
        section = Section(f"Reference cache: {cache}")
        section.add("embeddings", "computed by the run before step 1, with those of the learner")
        return section
    if not cache:
        with Section(f"Reference: {config.reference.workdir}") as section:
            _check_run(section, config, config.reference.workdir)
        return section
    with Section(f"Reference: the cache {cache}") as section:  # it may read as it likes
        stored = ReferenceCache.load(cache)
        stored.check_manifest(open_source(config.data.train, config.data.data_dir))
        section.add("embeddings", f"{stored.dim} wide, of {sum(stored.records):,} records")
        made_by = ", ".join(f"{k} {v}" for k, v in stored.identity.items())
        section.add("made by", made_by or "not said")
    return section


def _check_run(section: Section, config: ConfigDict, workdir: str) -> None:
    run = reference_config(config)
    vocabulary, pixels = inputs.workdir_rules(workdir, run)
    steps = Checkpointer(os.path.join(workdir, "checkpoints"), run.checkpoint.keep).steps()
    m = run.model
    section.add("model", f"{m.variant}, {m.image_size}/{m.patch_size} px, {run.precision}")
    section.add("vocabulary", f"{vocabulary.vocab_size:,} tokens, {vocabulary.fingerprint}")
    if steps:
        section.add("checkpoint", f"step {steps[-1]:,} of {run.total_steps:,}")
    else:
        section.problems.append(f"{workdir} holds no checkpoint. Train it to its end first.")
    if run.data.n_tokens != config.data.n_tokens:
        section.problems.append(
            f"its data.n_tokens is {run.data.n_tokens}, this run's {config.data.n_tokens}. Set "
            f"--config.data.n_tokens={run.data.n_tokens}."
        )
    if config.data.vocab:
        own = inputs.new_tokenizer(config).fingerprint
        if own != vocabulary.fingerprint:
            section.problems.append(
                f"it reads text with the vocabulary {vocabulary.fingerprint}, this run with {own}. "
                f"Set --config.data.vocab={workdir}, or use a cache of it."
            )
    elif (run.data.vocab_from or run.data.train) != (config.data.vocab_from or config.data.train):
        section.problems.append(
            f"its vocabulary was learned from other captions. Set --config.data.vocab={workdir}."
        )
    if pixels != inputs.pixel_rule(config):
        section.problems.append(
            f"it takes pictures resized by {pixels}, this run by {inputs.pixel_rule(config)}. Set "
            "--config.data.resize, or use a cache of it."
        )


def reference_config(config: ConfigDict) -> ConfigDict | None:
    """The config of the reference's run, with its vocabulary's size; UserError: no run."""
    if not needs_reference(config) or not config.reference.workdir:
        return None
    run = stored_config(config.reference.workdir)
    run.data.vocab_size = inputs.workdir_rules(config.reference.workdir, run)[0].vocab_size
    return run


def _tfds_names(config: ConfigDict) -> list[str]:
    """The TFDS sets that a run opens before its first step."""
    sources = [config.data.train] + ([] if config.data.vocab else [config.data.vocab_from])
    names = [part.strip().partition("@")[0] for source in sources for part in source.split(",")]
    names = [name.removeprefix("tfds:") for name in names if name.startswith("tfds:")]
    return list(dict.fromkeys(name.partition(":")[0] for name in names))


def _describe(section: Section, config: ConfigDict, manifest: Manifest, n_hosts: int) -> None:
    n_lanes, n_files = config.data.n_lanes, len({shard.path for shard in manifest.shards})
    loaded = config.total_steps * config.selection.super_batch
    section.add(
        "records",
        f"{manifest.n_records:,} in {n_files:,} shards of {len(manifest.sources)} source(s); the "
        f"run passes over them {loaded / manifest.n_records:.3g} times",
    )
    section.problems += data_problems(config, manifest.n_records)
    for stream in order.streams(manifest):
        order.lanes(stream, n_lanes)  # Raises if a lane would stay empty.
    per_lane = n_files / n_lanes
    text = f"{n_lanes} lanes on {n_hosts} host(s), {per_lane:.3g} shards a lane"
    if per_lane < 1:
        text += ": several lanes read one file; more shards would read faster"
    section.add("order", text)


def _one_record(section: Section, config: ConfigDict, manifest: Manifest) -> str:
    shard = manifest.shards[0]
    raw = next(iter(in_place.records(shard)))
    reader = RecordReader(manifest, config.data.image_size, config.seed)
    zero = tf.zeros([1], tf.int64)
    text = f"the first record of {shard.path} cannot be read: {{error}}"
    with explaining(tf.errors.OpError, text):
        record = {name: value[0] for name, value in reader.read(zero, zero, raw[None]).items()}
    caption = record["caption"].numpy().decode("utf-8", "replace")
    if not record["valid"]:
        raise UserError(
            f"the first record of {shard.path} is unusable: its image cannot be decoded or its "
            f"caption is empty ({caption[:60]!r}). Is the source's feature list right?"
        )
    image = record["image"].numpy()
    section.add(
        "first record",
        f"id {record['id'].numpy()}, image {image.shape[0]} x {image.shape[1]} px of mean "
        f"{image.mean():.0f}, caption {caption if len(caption) <= 60 else caption[:59] + '…'!r}",
    )
    return caption


def _tokens(section: Section, config: ConfigDict, caption: str) -> None:
    if not config.data.vocab:
        source = open_source(config.data.vocab_from or config.data.train, config.data.data_dir)
        if source.n_records > SMALL:
            section.add("its tokens", f"the run learns a vocabulary from {source.name} first")
            return
    tokenizer = inputs.new_tokenizer(config)
    tokens = tokenizer(tf.constant([caption])).numpy()[0].tolist()
    used = len(tokens) - next((i for i, t in enumerate(reversed(tokens)) if t), 0)
    section.add(
        "its tokens",
        f"{tokens[:used]}, {used} of {config.data.n_tokens}, from {tokenizer.vocab_size:,} "
        f"({tokenizer.fingerprint})",
    )
    _cut_captions(section, config, tokenizer)
    if tokenizer.vocab_size != config.data.vocab_size and config.data.vocab:
        section.add("vocabulary", f"data.vocab_size = {config.data.vocab_size:,} is not used")


def _cut_captions(section: Section, config: ConfigDict, tokenizer: Tokenizer) -> None:
    """How many captions do not fit into n_tokens; many are a problem."""
    captions = inputs.sample_captions(open_source(config.data.train, config.data.data_dir))
    if not captions:
        return
    n_cut = tokenizer.count_cut(captions)
    if captions == captions[:1]:
        section.problems.append(
            f"all captions are {captions[0][:60].decode('utf-8', 'replace')!r}: nothing can be "
            "learned from them. Were they prepared from the right column or field?"
        )
    section.add("captions cut", inputs.cut_text(n_cut, len(captions), config.data.n_tokens))
    if n_cut <= MOST_CUT * len(captions):
        return
    fits = config.data.n_tokens
    while n_cut > MOST_CUT * len(captions) and fits < 1024:
        fits += max(4, fits // 4)
        n_cut = Tokenizer(tokenizer.vocab_path, fits, tokenizer.rule).count_cut(captions)
    section.problems.append(
        f"{section.rows[-1][1]}. With --config.data.n_tokens={fits} {n_cut / len(captions):.1%} are"
        " cut (a reference that scores along needs the same, or a cache)."
    )


def check_records(config: ConfigDict, n_replicas: int, folder: str) -> Section:
    """Reads and decodes all of `data.train`; writes JSON and a page with samples to `folder`."""
    register(config.data.tfds_module)
    with Section(f"All records of {config.data.train}") as section:
        manifest = open_source(config.data.train, config.data.data_dir)
        tf.io.gfile.makedirs(folder)  # a place that cannot be written is told before the work
        report = doctor.examine(manifest)
        _describe_records(section, report, doctor.write(report, folder))
        doctor.check_bound(report, config.data.max_bad_share)
        # Steps that load hardly more than they train on would be refused.
        s, multiple = config.selection, math.lcm(config.data.n_lanes, n_replicas)
        needed = spare_super_batch(s.sub_batch, report.bad / report.records, multiple)
        if report.bad and s.super_batch < needed:
            section.problems.append(
                f"{report.bad:,} of {report.records:,} records cannot be used, and a step loads "
                f"{s.super_batch} to train on {s.sub_batch}: steps with fewer usable ones are "
                f"refused. Set --config.selection.super_batch={needed}, or prepare the data again "
                "without them."
            )
    return section


def _describe_records(section: Section, report: doctor.Report, written: tuple[str, str]) -> None:
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


SAMPLED = 8192  # rows that are looked at: q of 1e-4 then rests on thousands of pairs
MOST_SHARDS = 64  # that they are read from
BLOCK = 1024
# Near mates are all that joint selection sees beyond single scores. q is the chance that two
# different rows are near: among b rows, a row has about b·q near mates.
# With fewer mates in a batch, greedy joint selection takes mostly what independent top-k takes: 87%
# of it at 0.09 on the emoji pool, 70% at 0.34 (`python -m benchmarks.bq`).
FEW = 0.1


def check_mates(config: ConfigDict) -> Section:
    """b·q of `data.train`: by captions, and by the reference's embeddings where they are stored."""
    section = Section("Near mates: rows of a sub-batch that are close to one another")
    found = {}
    try:
        manifest = open_source(config.data.train, config.data.data_dir)
        found["same caption"] = captions_q(manifest)
        if config.reference.cache:
            cache = ReferenceCache.load(config.reference.cache)
            cache.check_manifest(manifest)
            found["reference: a match"] = reference_q(manifest, cache)
    except (UserError, OSError) as error:  # the sections on data and reference say so
        section.add("not counted", str(error).partition(":")[0])
    if not found:
        return section
    b = config.selection.sub_batch
    for label, q in found.items():
        section.add(label, f"b·q = {b * q:.2g}: {q:.2g} of the pairs of rows, times b = {b:,}")
    policy = (
        "joint with selection.greedy takes other examples here than independent_top_k, of a higher "
        "joint score; that the model gets better was not shown (docs/results.md)"
    )
    if max(b * q for q in found.values()) < FEW:
        policy = (
            "independent_top_k, or joint with selection.greedy: with so few near mates in a batch "
            "both select mostly the same (docs/results.md)"
        )
    section.add("policy", policy)
    return section


def captions_q(manifest: Manifest) -> float:
    """Chance that two rows have the same caption, on an even sample of the set."""
    hashes = []
    for index, path, skipped, stride in _even(manifest, [s.path for s in manifest.shards]):
        source = manifest.sources[manifest.shards[index].source]
        for serialized in _every(path, skipped, manifest.shards[index].records, stride):
            captions = fields.in_python(source, serialized).captions
            hashes += [hash64(text) for text in captions[:1] if is_text(text)]
    return equal_share(np.array(hashes, np.int64))


def reference_q(manifest: Manifest, cache: ReferenceCache) -> float:
    """Chance that the reference calls the picture of a row and the caption of another a match."""
    rows = []
    for index, path, _, stride in _even(manifest, cache.shard_paths):
        rows += list(_every(path, 0, manifest.shards[index].records, stride))
    parsed = cache.parse(tf.constant(rows), tf.zeros([len(rows)], tf.int64))
    zimg, ztxt = (parsed[f"reference_{side}"].numpy() for side in ("zimg", "ztxt"))
    return match_share(zimg, ztxt, cache.scale, cache.bias)


def equal_share(values: np.ndarray) -> float:
    """Share of the pairs of different rows that have the same value."""
    _, counts = np.unique(values, return_counts=True)
    n = len(values)
    return float(np.sum(counts * (counts - 1.0)) / max(1, n * (n - 1)))


def match_share(zimg: np.ndarray, ztxt: np.ndarray, scale: float, bias: float) -> float:
    """Share of the pairs i ≠ j with scale·<x_i, y_j> + bias > 0. zimg, ztxt: [n, d]."""
    n, matches = len(zimg), 0
    for start in range(0, n, BLOCK):
        logits = scale * (zimg[start : start + BLOCK] @ ztxt.T) + bias
        matches += int((logits > 0).sum())
    matches -= int((scale * np.sum(zimg * ztxt, axis=1) + bias > 0).sum())
    return matches / max(1, n * (n - 1))


def _even(manifest: Manifest, paths: list[str]) -> Iterator[tuple[int, str, int, int]]:
    """(index, path, records to skip, stride) of the shards that a sample is read from."""
    n = len(manifest.shards)
    used = np.unique(np.linspace(0, n - 1, min(n, MOST_SHARDS)).astype(int)).tolist()
    stride = -(-sum(manifest.shards[index].records for index in used) // SAMPLED)
    for index in used:
        yield index, paths[index], manifest.shards[index].start, max(1, stride)


def _every(path: str, skipped: int, n: int, stride: int) -> Iterator[bytes]:
    """Every `stride`-th of the n records behind the first `skipped`."""
    file = tf.data.TFRecordDataset(path).skip(skipped).take(n)
    return file.shard(stride, 0).as_numpy_iterator()
