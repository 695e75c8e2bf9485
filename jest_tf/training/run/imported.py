"""Public weights as the workdir of a run at step 0, which everything that takes a run can use."""

import dataclasses
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping

import keras
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from jest_tf.config import RESIZES, base_config
from jest_tf.data import tokenizer as vocabularies
from jest_tf.data.records import read_captions
from jest_tf.data.sources import open_source
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError, explaining
from jest_tf.model_record import PixelRule, TokenizerRule
from jest_tf.models.dual_encoder import CUSTOM, DualEncoder, DualEncoderConfig
from jest_tf.models.weights import big_vision, folder, rules
from jest_tf.progress import Counter
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
    """Writes the workdir `out` from public weights; UserError, and nothing at `out`, else."""
    if os.path.lexists(out):
        raise UserError(f"--out={out} is there already: give a folder that does not exist")
    source = folder.open_source(path)
    kind = source.format
    config = kind.measure(source.tensors).config(options.heads or source.hints.heads, path)
    weights = rules.to_ours(kind.rules(config), source.tensors, config, path)
    side = options.image_size or source.hints.side or config.image_size
    margin = side - config.image_size  # that no patch covers, as 6 of 384 px in patches of 14
    if not 0 <= margin < config.patch_size:
        raise UserError(
            f"{path}: pictures of {side} px do not fit {config.image_size // config.patch_size} "
            f"patches of {config.patch_size} px a side ({config.image_size} px). Give the files of "
            "one model, or --image_size."
        )
    resize = options.resize or source.hints.resize or DEFAULT_RESIZE.get(kind, "bicubic")
    if resize not in RESIZES:
        raise UserError(
            f"{path} wants pictures resized by {resize!r}; we have {', '.join(RESIZES)}. Choose "
            "one with --resize"
        )
    pixels = dataclasses.replace(inputs.pixel_rule_of(resize), margin=margin)
    parent = os.path.dirname(os.path.abspath(out))
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".import-") as aside:
        tokenizer = _tokenizer(source, config, options, aside)
        model = _build(config, pixels, weights)
        if options.check:
            _check(model, margin, options.check, report)
        if options.trim_vocab:
            model, tokenizer = _trimmed(model, tokenizer, options)
        workdir = os.path.join(aside, "run")
        _write(model, tokenizer, workdir, os.path.basename(path.rstrip("/")))
        os.rename(workdir, out)
    size = model.config
    report(
        f"{kind.DESCRIPTION} -> {out}: {model.count_params():,} parameters; {size.image_size} px, "
        f"patches of {size.patch_size}, heads {size.image.heads} and {size.text.heads}; pictures: "
        f"{pixels}; text: {size.n_tokens} tokens of {size.vocab_size:,}, "
        f"{str(tokenizer.rule) or 'plain'}; scale {size.init_scale:.4g}, bias {size.init_bias:.4g}"
    )


def _tokenizer(
    source: folder.Source, config: DualEncoderConfig, options: Options, aside: str
) -> Tokenizer:
    """The tokenizer of the model, its file copied to the folder `aside`."""
    path = options.vocab or source.vocabulary
    if not path:
        raise UserError(
            f"{source.name} has no vocabulary beside it: give the SentencePiece file of this model "
            "with --vocab=FILE"
        )
    # Our tokenizer tells kinds by the ending; public files end on .model, .spm or nothing.
    ending = ".txt" if path.endswith(".txt") else ".model"
    kept = os.path.join(aside, inputs.KEPT_VOCABULARY + ending)
    with explaining(OSError, f"--vocab={path} cannot be read: {{error}}"):
        shutil.copyfile(path, kept)
    rule = _text_rule(kept, source.hints.tokenizer, options.text)
    tokenizer, rows = Tokenizer(kept, config.n_tokens, rule), config.vocab_size
    if tokenizer.vocab_size > rows * MORE_PIECES or tokenizer.vocab_size * MORE_ROWS < rows:
        raise UserError(
            f"{path} has {tokenizer.vocab_size:,} tokens, and the model's table {rows:,} rows: it "
            "is the tokenizer of another model. Give --vocab=FILE."
        )
    if tokenizer.vocab_size <= rows:
        return tokenizer
    return Tokenizer(kept, config.n_tokens, dataclasses.replace(rule, kept_ids=tuple(range(rows))))


def _text_rule(path: str, told: Mapping, asked: str) -> TokenizerRule:
    """By --text, else by tokenizer_config.json, else by the kind of the vocabulary."""
    if asked == "plain" or path.endswith(".txt"):
        return TokenizerRule()
    model = vocabularies.read_sentencepiece(path)
    is_second = vocabularies.is_gemma_like(model)
    kind = str(told.get("tokenizer_class") or "")
    if kind.startswith(("Siglip2", "Gemma", "SiglipT")):
        is_second = not kind.startswith("SiglipT")
    if asked:
        is_second = asked == "siglip2"
    family = vocabularies.siglip2_rule if is_second else vocabularies.siglip_rule
    rule = family(model)
    pad = told.get("pad_token")
    if not asked and pad and (found := vocabularies.piece_id(model, pad)) is not None:
        rule = dataclasses.replace(rule, pad_id=found)
    if not asked and told.get("do_lower_case") is False:
        rule = dataclasses.replace(rule, lower=False)
    return rule


def _trimmed(
    model: DualEncoder, tokenizer: Tokenizer, options: Options
) -> tuple[DualEncoder, Tokenizer]:
    """Both with only the token rows that the captions of --trim_vocab use."""
    captions = read_captions(open_source(options.trim_vocab, options.data_dir), MAX_CAPTIONS)
    rule = tokenizer.rule
    ids = np.asarray(rule.kept_ids or range(model.config.vocab_size))  # of the file, by row
    special = rule.pad_id, tokenizer.end_id, tokenizer.unknown_id
    rows = {int(np.flatnonzero(ids == i)[0]) for i in special}
    with Counter("tokenizing captions", len(captions), "captions") as counter:
        for at in range(0, len(captions), 4096):
            tokens = tokenizer(tf.constant(captions[at : at + 4096]))
            rows.update(np.unique(tokens.numpy()).tolist())
            counter.add(len(tokens))
    kept = np.asarray(sorted(rows))
    rule = dataclasses.replace(rule, kept_ids=tuple(ids[kept].tolist()))
    config = dataclasses.replace(model.config, vocab_size=len(kept))
    weights = {_name(variable): variable.numpy() for variable in model.variables}
    weights["text/token_embedding"] = weights["text/token_embedding"][kept]
    trimmed = _build(config, model.pixels, weights.items())
    return trimmed, Tokenizer(tokenizer.vocab_path, tokenizer.n_tokens, rule)


def _build(
    config: DualEncoderConfig, pixels: PixelRule, weights: Iterable[tuple[str, np.ndarray]]
) -> DualEncoder:
    """The model with these weights. They are read one by one: one more is in memory at a time."""
    model = DualEncoder(config, pixels=pixels)
    variables = {_name(variable): variable for variable in model.variables}
    with Counter("reading weights", len(variables), "tensors") as counter:
        for name, value in counter.over(weights):
            if not np.isfinite(value).all():
                raise UserError(
                    f"the weights hold numbers that are not finite ({name}). Fetch them again"
                )
            variables[name].assign(value)
    scale, bias = float(model.scale), float(tf.convert_to_tensor(model.bias))
    if not (math.isfinite(scale) and math.isfinite(bias)):
        raise UserError(f"the weights have scale {scale} and bias {bias}: expected finite numbers")
    model.config = dataclasses.replace(config, init_scale=scale, init_bias=bias)
    return model


def _name(variable: keras.Variable) -> str:
    """As the weight formats name it: its path below the model."""
    return variable.path.partition("/")[2]


def _check(model: DualEncoder, margin: int, path: str, report: Callable[[str], None]) -> None:
    """Compares embeddings with stored ones; UserError: they are missing or differ by too much."""
    side = model.config.image_size
    text = (
        f"--check={path}: {{error}}. Expected a plain .npz with images float32 [n, "
        f"{side + margin}, {side + margin}, 3] in [-1, 1] and zimg, or tokens int [n, "
        f"{model.config.n_tokens}] and ztxt, or all four."
    )
    kinds = (OSError, ValueError, KeyError, IndexError, tf.errors.InvalidArgumentError)
    with explaining(kinds, text):
        with np.load(path, allow_pickle=False) as arrays:
            stored = {name: arrays[name] for name in arrays.files}
        pairs = {}
        if "images" in stored:
            images = np.asarray(stored["images"], np.float32)
            if 0 < images.shape[1] - side < model.config.patch_size:  # no patch covers the rest
                images = images[:, :side, :side]
            pairs["zimg"] = model.encode_image(tf.constant(images)).numpy(), stored["zimg"]
        if "tokens" in stored:
            tokens = tf.constant(np.asarray(stored["tokens"], np.int32))
            pairs["ztxt"] = model.encode_text(tokens).numpy(), stored["ztxt"]
        if not pairs:
            raise KeyError("images, tokens")
        largest = {k: float(np.abs(ours - theirs).max()) for k, (ours, theirs) in pairs.items()}
    told = ", ".join(f"{name} {value:.2g}" for name, value in largest.items())
    report(f"largest difference from {path}: {told}")
    if not max(largest.values()) <= CHECK_LIMIT:
        raise UserError(
            f"the imported model differs from {path} by {told}, more than {CHECK_LIMIT}: is it of "
            "the same weights, are the heads right, and the stored embeddings of unit norm?"
        )


def _write(model: DualEncoder, tokenizer: Tokenizer, workdir: str, name: str) -> None:
    """What a finished run leaves, at step 0."""
    with open_workdir(workdir, _config(model, tokenizer, name).to_dict()) as opened:
        opened.claim({})
        shutil.copy(tokenizer.vocab_path, workdir)
        inputs.model_record(model, tokenizer, model.config.image_size).save(workdir)
        state = {"step": 0, "ledger": dataclasses.asdict(CostLedger())}
        state["records"] = {"seen": 0, "bad": 0}
        Checkpointer(str(opened.checkpoints)).save(0, learner_variables(model), state)


def _config(model: DualEncoder, tokenizer: Tokenizer, name: str) -> ConfigDict:
    size, c = model.config, base_config()
    c.name, c.total_steps = name, 0
    c.model.variant = CUSTOM
    c.model.image_size, c.model.patch_size = size.image_size, size.patch_size
    c.model.init_scale, c.model.init_bias = size.init_scale, size.init_bias
    c.model.sizes = ConfigDict(
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
