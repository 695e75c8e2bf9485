"""The data and the reference that a config names, as far as they can be seen without training."""

import os

import tensorflow as tf
from ml_collections import ConfigDict

from jest_tf.config import needs_reference
from jest_tf.data import in_place, order
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
# Passes over the data, trained: more are a slip of the pen and no experiment.
MOST_PASSES = 1_000
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
        _evaluations(section, config)
    return section


def check_reference(config: ConfigDict) -> Section:
    """Whether the reference exists and reads one super-batch as the learner does."""
    cache = config.reference.cache
    is_own = cache and cache == config.model.image.cache
    if is_own and not tf.io.gfile.exists(f"{cache}/cache.json"):
        section = Section(f"Reference cache: {cache}")
        section.add("embeddings", "computed by the run before step 1, with those of the learner")
        return section
    if cache:  # then no step runs the reference: it may read as it likes
        return _check_cache(config)
    with Section(f"Reference: {config.reference.workdir}") as section:
        _check_run(section, config, config.reference.workdir)
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


def _check_cache(config: ConfigDict) -> Section:
    with Section(f"Reference: the cache {config.reference.cache}") as section:
        cache = ReferenceCache.load(config.reference.cache)
        cache.check_manifest(open_source(config.data.train, config.data.data_dir))
        section.add("embeddings", f"{cache.dim} wide, of {sum(cache.records):,} records")
        made_by = ", ".join(f"{k} {v}" for k, v in cache.identity.items())
        section.add("made by", made_by or "not said")
    return section


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
    passes = config.total_steps * config.selection.sub_batch / manifest.n_records
    if passes > MOST_PASSES:
        steps = max(1, MOST_PASSES * manifest.n_records // config.selection.sub_batch)
        section.problems.append(
            f"the run trains {passes:,.0f} times on each of the {manifest.n_records:,} records: it "
            f"would learn them by heart. {steps:,} steps are {MOST_PASSES:,} passes: lower "
            "--config.total_steps, or train on more data."
        )
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
    reader = RecordReader(manifest, config.data.image_size, draw_caption=False)
    zero = tf.zeros([1], tf.int64)
    text = f"the first record of {shard.path} cannot be read: {{error}}"
    with explaining(tf.errors.OpError, text, lambda error: error.message.splitlines()[0]):
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


def _evaluations(section: Section, config: ConfigDict) -> None:
    """Opens what evaluations read, except TFDS sets, which that would prepare."""
    for name, spec in config.evals.items():
        sources = [spec.get(role, "") for role in ("data", "train", "validation")]
        if not any("tfds:" in source for source in sources):
            require_data(name, spec.to_dict(), config.data.data_dir)
            section.add(f"evaluation {name}", f"{spec.kind} on {spec.data}")
