"""Public weights as the workdir of a run at step 0, which everything that takes a run can use."""

import dataclasses
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping

import ml_collections
import numpy as np
import tensorflow as tf

from jest_tf.config import base_config
from jest_tf.data import sentencepiece_file
from jest_tf.data.records import read_captions
from jest_tf.data.sources import open_source
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError
from jest_tf.model_record import PixelRule, TokenizerRule
from jest_tf.models.dual_encoder import CUSTOM, DualEncoder, DualEncoderConfig
from jest_tf.models.weights import big_vision, folder, rules
from jest_tf.training import inputs
from jest_tf.training.cost import CostLedger
from jest_tf.training.run.checkpoint import Checkpointer
from jest_tf.training.run.restore import learner_variables
from jest_tf.training.run.workdir import open_workdir

CHECK_LIMIT = 1e-5  # of an embedding's component, against stored ones
MAX_CAPTIONS = 10**9
# A vocabulary file may hold a few pieces that the table has no row for (extra ids), and a table a
# few rows that no piece uses. Far from that, they are of different models.
MORE_PIECES, MORE_ROWS = 1.03, 4.0
TEXT_RULES = ("siglip", "siglip2", "plain")
DEFAULT_RESIZE = {big_vision: "bilinear_plain"}  # others: Pillow's bicubic, as transformers


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user says where files do not: see the flags of `jest_tf.import_weights`."""

    vocab: str = ""
    check: str = ""
    trim_vocab: str = ""
    heads: tuple[int, int] | None = None
    image_size: int = 0
    resize: str = ""
    text: str = ""
    data_dir: str | None = None


def import_run(
    path: str, out: str, options: Options = Options(), report: Callable[[str], None] = print
) -> None:
    """Writes the workdir `out` from a file or folder of public weights.

    Raises:
      UserError: anything that does not fit. Nothing is left at `out` then.
    """
    if os.path.lexists(out):
        raise UserError(f"--out={out} is there already: give a folder that does not exist")
    source = folder.open_source(path)
    config = source.format.measure(source.tensors).config(
        options.heads or source.hints.heads, path
    )
    margin = _margin(config, options.image_size or source.hints.side, path)
    resize = options.resize or source.hints.resize or DEFAULT_RESIZE.get(source.format, "bicubic")
    pixels = dataclasses.replace(inputs.pixel_rule_of(resize), margin=margin)
    tokenizer = _tokenizer(source, config, options)
    weights = dict(
        rules.to_ours(source.format.rules(config), source.tensors, config, path)
    )
    scale, bias = math.exp(float(weights["log_scale"])), float(weights["bias"])
    config = dataclasses.replace(config, init_scale=scale, init_bias=bias)
    if options.check:
        _check(_build(config, pixels, weights), margin, options.check, report)
    if options.trim_vocab:
        tokenizer = _trimmed(tokenizer, options)
        weights["text/token_embedding"] = weights["text/token_embedding"][
            list(tokenizer.rule.kept_ids)
        ]
        config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    model = _build(config, pixels, weights)
    _write(model, tokenizer, out, path)
    report(
        f"{source.format.DESCRIPTION} -> {out}: {model.count_params():,} parameters, "
        f"{config.image_size} px in patches of {config.patch_size}, heads {config.image.heads} and "
        f"{config.text.heads}; pictures: {pixels}; text: {tokenizer.n_tokens} tokens of "
        f"{tokenizer.vocab_size:,}, {tokenizer.rule or 'plain'}; scale {scale:.4g}, bias {bias:.4g}"
    )


def _margin(config: DualEncoderConfig, side: int | None, what: str) -> int:
    """Pixels of a picture that no patch covers, as 6 of 384 in patches of 14."""
    margin = (side or config.image_size) - config.image_size
    if not 0 <= margin < config.patch_size:
        raise UserError(
            f"{what}: pictures of {side} px do not fit {config.image_size // config.patch_size} "
            f"patches of {config.patch_size} px a side ({config.image_size} px). Give the files of "
            "one model, or --image_size."
        )
    return margin


def _tokenizer(source: folder.Source, config: DualEncoderConfig, options: Options) -> Tokenizer:
    path = options.vocab or source.vocabulary
    if not path:
        raise UserError(
            f"{source.name} has no vocabulary beside it: give the SentencePiece file of this model "
            "with --vocab=FILE"
        )
    with tempfile.TemporaryDirectory() as aside:
        # Our tokenizer tells kinds by the ending; public files end on .model, .spm or nothing.
        named = path if path.endswith((".txt", ".model")) else os.path.join(aside, "vocab.model")
        if named != path:
            _copy(path, named)
        rule = _text_rule(named, source.hints.tokenizer, options.text)
        tokenizer = Tokenizer(named, config.n_tokens, rule)
        rows = config.vocab_size
        if tokenizer.vocab_size > rows * MORE_PIECES or tokenizer.vocab_size * MORE_ROWS < rows:
            raise UserError(
                f"{path} has {tokenizer.vocab_size:,} tokens, and the model's table {rows:,} rows: "
                "it is the tokenizer of another model. Give --vocab=FILE."
            )
        if tokenizer.vocab_size > rows:
            rule = dataclasses.replace(rule, kept_ids=tuple(range(rows)))
            tokenizer = Tokenizer(named, config.n_tokens, rule)
    tokenizer.vocab_path = path
    return tokenizer


def _copy(source: str, to: str) -> None:
    try:
        shutil.copyfile(source, to)
    except OSError as error:
        raise UserError(f"--vocab={source} cannot be read: {error.strerror}") from error


def _text_rule(path: str, told: Mapping, asked: str) -> TokenizerRule:
    """By --text, else by tokenizer_config.json, else by the kind of the vocabulary."""
    if asked == "plain" or path.endswith(".txt"):
        return TokenizerRule()
    model = sentencepiece_file.load(path)
    is_second = sentencepiece_file.is_gemma_like(model)
    kind = str(told.get("tokenizer_class") or "")
    if kind.startswith(("Siglip2", "Gemma", "SiglipT")):
        is_second = not kind.startswith("SiglipT")
    if asked:
        is_second = asked == "siglip2"
    family = sentencepiece_file.siglip2_rule if is_second else sentencepiece_file.siglip_rule
    rule = family(model)
    pad = told.get("pad_token")
    pad = pad.get("content") if isinstance(pad, dict) else pad
    if not asked and pad and (found := sentencepiece_file.piece_id(model, pad)) is not None:
        rule = dataclasses.replace(rule, pad_id=found)
    if not asked and told.get("do_lower_case") is False:
        rule = dataclasses.replace(rule, lower=False)
    return rule


def _trimmed(tokenizer: Tokenizer, options: Options) -> Tokenizer:
    """The tokenizer with only the rows that the captions of --trim_vocab use."""
    manifest = open_source(options.trim_vocab, options.data_dir)
    used = {tokenizer.rule.pad_id, tokenizer.end_id, tokenizer.unknown_id}
    captions = read_captions(manifest, MAX_CAPTIONS)
    for at in range(0, len(captions), 4096):
        used.update(np.unique(tokenizer(tf.constant(captions[at : at + 4096])).numpy()).tolist())
    rule = dataclasses.replace(tokenizer.rule, kept_ids=tuple(sorted(used)))
    path = tokenizer.vocab_path
    return Tokenizer(path, tokenizer.n_tokens, rule)


def _build(config: DualEncoderConfig, pixels: PixelRule, weights: Mapping) -> DualEncoder:
    model = DualEncoder(config, pixels=pixels)
    for variable in model.variables:
        variable.assign(weights[variable.path.partition("/")[2]])
    return model


def _check(model: DualEncoder, margin: int, path: str, report: Callable[[str], None]) -> None:
    """Compares embeddings with stored ones.

    Raises:
      UserError: arrays are missing or of another shape, or a component differs by too much.
    """
    side = model.config.image_size
    try:
        with np.load(path, allow_pickle=False) as arrays:
            stored = {name: arrays[name] for name in arrays.files}
        pairs = {}
        if "images" in stored:
            images = np.asarray(stored["images"], np.float32)
            if images.shape[1] == side + margin:
                images = images[:, :side, :side]
            pairs["zimg"] = model.encode_image(tf.constant(images)).numpy(), stored["zimg"]
        if "tokens" in stored:
            tokens = tf.constant(np.asarray(stored["tokens"], np.int32))
            pairs["ztxt"] = model.encode_text(tokens).numpy(), stored["ztxt"]
        if not pairs:
            raise KeyError("images, tokens")
        largest = {k: float(np.abs(ours - theirs).max()) for k, (ours, theirs) in pairs.items()}
    except (OSError, ValueError, KeyError, IndexError, tf.errors.InvalidArgumentError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"--check={path}: {error}. Expected a plain .npz with images float32 [n, {side + margin}"
            f", {side + margin}, 3] in [-1, 1] and zimg, or tokens [n, {model.config.n_tokens}] and "
            "ztxt, or all four."
        ) from error
    told = ", ".join(f"{name} {value:.2g}" for name, value in largest.items())
    report(f"largest difference from {path}: {told}")
    if not max(largest.values()) <= CHECK_LIMIT:
        raise UserError(
            f"the imported model differs from {path} by {told}, more than {CHECK_LIMIT}: is it of "
            "the same weights, are the heads right, and the stored embeddings of unit norm?"
        )


def _write(model: DualEncoder, tokenizer: Tokenizer, out: str, name: str) -> None:
    """The workdir, all or nothing."""
    parent = os.path.dirname(os.path.abspath(out))
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".import-") as aside:
        workdir = os.path.join(aside, "run")
        kept = "vocab.txt" if tokenizer.vocab_path.endswith(".txt") else "vocab.model"
        with open_workdir(workdir, _config(model, tokenizer, name).to_dict()) as opened:
            shutil.copyfile(tokenizer.vocab_path, os.path.join(workdir, kept))
            record = inputs.model_record(model, tokenizer, model.config.image_size)
            dataclasses.replace(record, vocabulary=kept).save(workdir)
            state = {"step": 0, "ledger": CostLedger().to_dict()}
            state["records"] = {"seen": 0, "bad": 0}
            Checkpointer(str(opened.checkpoints)).save(0, learner_variables(model), state)
        os.rename(workdir, out)


def _config(model: DualEncoder, tokenizer: Tokenizer, name: str) -> ml_collections.ConfigDict:
    size, c = model.config, base_config()
    c.name = os.path.basename(name.rstrip("/"))
    c.total_steps = 0
    c.model.variant = CUSTOM
    c.model.image_size, c.model.patch_size = size.image_size, size.patch_size
    c.model.init_scale, c.model.init_bias = size.init_scale, size.init_bias
    c.model.sizes = ml_collections.ConfigDict(
        {
            "image": dataclasses.asdict(size.image),
            "text": dataclasses.asdict(size.text),
            "embed_dim": size.embed_dim,
            "vocab_size": size.vocab_size,
        }
    )
    c.data.image_size, c.data.n_tokens = size.image_size, size.n_tokens
    c.data.vocab_size = tokenizer.vocab_size
    c.data.resize = model.pixels.resize + ("" if model.pixels.antialias else "_plain")
    return c
