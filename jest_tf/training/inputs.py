"""The data and the vocabulary of a run, opened and checked before the first step."""

import dataclasses
import hashlib
import os
import pathlib
from typing import Any

import tensorflow as tf
from absl import logging
from ml_collections import ConfigDict

from jest_tf.data.manifest import Manifest, check_files
from jest_tf.data.records import embedded, read_captions
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.data.sources import open_source
from jest_tf.data.tokenizer import Tokenizer, train_wordpiece
from jest_tf.errors import UserError
from jest_tf.files import write_atomically
from jest_tf.model_record import ModelRecord, PixelRule, TokenizerRule
from jest_tf.models.dual_encoder import DualEncoder
from jest_tf.monitoring.labels import keep_about

KEPT_VOCABULARY = "vocab"  # its name in a workdir, with the suffix of its kind
VOCABULARY_SUFFIXES = (".txt", ".model")
CAPTION_SAMPLE = 2_000  # captions of which it is told how many are cut
MAX_CAPTIONS = 1_000_000  # that a vocabulary is learned from; more change it little
LEARNER_VERSION = 2  # 1 learned fewer tokens than asked


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run reads, and how it reads text and pictures."""

    manifest: Manifest
    tokenizer: Tokenizer
    pixels: PixelRule

    @property
    def fingerprints(self) -> dict[str, Any]:
        """What identifies the data, wherever they lie."""
        weights = [source.weight for source in self.manifest.sources]
        return {"data": self.manifest.fingerprint, "mixture weights": weights}


def open_inputs(
    config: ConfigDict, workdir: str, is_new: bool, checks_files: bool = True
) -> Inputs:
    """Opens the training data, prepared if need be, and the vocabulary; writes nothing.

    A run that goes on keeps its rules for texts and pictures. checks_files: look at every shard;
    one of several workers does. UserError: data or vocabulary cannot be read, or are not those of
    the begun run.
    """
    manifest = open_source(config.data.train, config.data.data_dir)
    # With an image cache that is read, and the shards only to fill it.
    if checks_files and not config.model.image.cache:
        check_files(manifest)
    if is_new:
        return Inputs(manifest, new_tokenizer(config), pixel_rule(config))
    tokenizer, pixels = workdir_rules(workdir, config)
    if os.path.exists(config.data.vocab):
        given = Tokenizer(find_vocabulary(config), tokenizer.n_tokens, tokenizer.rule)
        if given.fingerprint != tokenizer.fingerprint:
            raise UserError(
                f"data.vocab = {config.data.vocab} is not the vocabulary that the run in {workdir} "
                f"began with ({tokenizer.vocab_path}). Give that one, or another --workdir."
            )
    return Inputs(manifest, tokenizer, pixels)


def keep_inputs(inputs: Inputs, workdir: pathlib.Path) -> None:
    """Copies the vocabulary and what is known of the data, in place of those of a failed start."""
    source = inputs.tokenizer.vocab_path
    with tf.io.gfile.GFile(source, "rb") as file:
        content = file.read()
    for suffix in VOCABULARY_SUFFIXES:
        (workdir / (KEPT_VOCABULARY + suffix)).unlink(missing_ok=True)
    write_atomically(workdir / (KEPT_VOCABULARY + _suffix(source)), content)
    keep_about(inputs.manifest.about, workdir, inputs.manifest)


def pixel_rule(config: ConfigDict) -> PixelRule:
    """How a new run resizes pictures: as `model.init` does, or as `data.resize` says."""
    if config.model.init:
        return ModelRecord.load(config.model.init).pixels
    return pixel_rule_of(config.data.resize)


def pixel_rule_of(kind: str) -> PixelRule:
    """The rule that `data.resize` names: bilinear, bicubic, or bilinear_plain."""
    return PixelRule(kind.removesuffix("_plain"), antialias=not kind.endswith("_plain"))


def new_tokenizer(config: ConfigDict) -> Tokenizer:
    """How a new run reads text: by the rule of the workdir that `data.vocab` names, or our own."""
    record = ModelRecord.load(config.data.vocab) if os.path.isdir(config.data.vocab) else None
    rule = record.tokenizer if record else TokenizerRule()
    return Tokenizer(find_vocabulary(config), config.data.n_tokens, rule)


def workdir_rules(workdir: str, config: ConfigDict) -> tuple[Tokenizer, PixelRule]:
    """How a workdir's model reads text and pictures; UserError: vocabulary missing or other."""
    record = ModelRecord.load(workdir)
    if record is None:  # a run of an older version
        return Tokenizer(vocabulary_of(workdir), config.data.n_tokens), PixelRule()
    path = os.path.join(workdir, record.vocabulary)
    tokenizer = Tokenizer(path, record.n_tokens, record.tokenizer)
    if tokenizer.fingerprint != record.fingerprint:
        raise UserError(
            f"{path} is not the vocabulary of this model: its fingerprint is "
            f"{tokenizer.fingerprint}, model.json says {record.fingerprint}. Restore the file."
        )
    return tokenizer, record.pixels


def model_record(model: DualEncoder, tokenizer: Tokenizer, image_size: int) -> ModelRecord:
    """What `model.json` says of a model; image_size: of decoded pictures (`data.image_size`)."""
    return ModelRecord(
        sizes=dataclasses.asdict(model.config),
        vocabulary=KEPT_VOCABULARY + _suffix(tokenizer.vocab_path),
        fingerprint=tokenizer.fingerprint,
        end_id=tokenizer.end_id,
        n_tokens=tokenizer.n_tokens,
        image_size=image_size,
        tokenizer=tokenizer.rule,
        pixels=model.pixels,
    )


def find_vocabulary(config: ConfigDict) -> str:
    """Path of the vocabulary that the config means; learned from captions where it names none.

    A learned one is kept in the data folder under the fingerprint of the data, for other runs.
    """
    if os.path.isdir(config.data.vocab):
        return vocabulary_of(config.data.vocab)
    if config.data.vocab:
        if not os.path.exists(config.data.vocab):
            raise UserError(
                f"data.vocab: no file {config.data.vocab!r}. Give a .txt (wordpiece) or .model "
                "(SentencePiece) file or a workdir, or leave it empty: the captions teach one."
            )
        return config.data.vocab
    manifest = open_source(config.data.vocab_from or config.data.train, config.data.data_dir)
    name = hashlib.sha256(manifest.fingerprint.encode()).hexdigest()[:12]
    folder = os.path.join(config.data.data_dir, "vocabularies")
    path = os.path.join(folder, f"{name}-{config.data.vocab_size}-v{LEARNER_VERSION}.txt")
    if not os.path.exists(path):
        logging.info("Learning a vocabulary from the captions of %s …", manifest.name)
        os.makedirs(folder, exist_ok=True)
        train_wordpiece(read_captions(manifest, MAX_CAPTIONS), config.data.vocab_size, path)
    return path


def sample_captions(manifest: Manifest, cache: ReferenceCache | None = None) -> list[bytes]:
    """The first different captions of the shards or `cache`, by which text length is judged."""
    manifest = embedded(manifest, cache) if cache else manifest
    return read_captions(manifest, CAPTION_SAMPLE)


def cut_text(n_cut: int, n: int, n_tokens: int) -> str:
    """How many of n captions are too long for the model, in words."""
    share = n_cut / max(n, 1)
    return f"{n_cut:,} of {n:,} captions ({share:.1%}) are cut: longer than n_tokens = {n_tokens}"


def vocabulary_of(workdir: str) -> str:
    """Path of the vocabulary kept in a workdir; UserError: none is there."""
    for suffix in VOCABULARY_SUFFIXES:
        path = os.path.join(workdir, KEPT_VOCABULARY + suffix)
        if os.path.exists(path):
            return path
    raise UserError(
        f"{workdir} holds no vocabulary (vocab.txt or vocab.model): no run began there."
    )


def _suffix(path: str) -> str:
    return ".model" if path.endswith(".model") else ".txt"
