"""Our tokenizers as files that Hugging Face's transformers loads without code of ours.

A SentencePiece model read by SigLIP's rule is a SiglipTokenizer: its own file does. Everything else
becomes a tokenizer.json of the `tokenizers` library.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jest_tf.data.tokenizer import PAD, SENTENCEPIECE_BPE, UNKNOWN, Tokenizer, read_sentencepiece

# What case folding does and lower-casing does not, and white space that BERT's cleaning drops.
FOLDS = {"[ßẞ]": "ss", "ς": "σ", r"[\x{0b}\x{0c}\x{1c}-\x{1f}\x{85}]": " "}
NORMAL, USER_DEFINED, UNUSED = 1, 4, 5  # types of pieces


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the tokenizer's files into `folder`; a trimmed one as it was before it was trimmed."""
    rule, path = tokenizer.rule, tokenizer.vocab_path
    config: dict[str, Any] = {
        "model_max_length": tokenizer.n_tokens,
        "padding_side": "right",
        "truncation_side": "right",
        "model_input_names": ["input_ids"],
        "clean_up_tokenization_spaces": False,
        "processor_class": "SiglipProcessor",
    }
    if tokenizer.is_wordpiece:
        vocab = Path(path).read_text(encoding="utf-8").splitlines()
        (folder / "vocab.txt").write_bytes(Path(path).read_bytes())  # what `jest import` reads
        special = {"pad_token": PAD, "unk_token": UNKNOWN, "eos_token": vocab[tokenizer.end_id]}
        content = _wordpiece(vocab)
    else:
        model = read_sentencepiece(path)
        ids = {"pad_token": rule.pad_id, "eos_token": tokenizer.end_id}
        ids["unk_token"] = tokenizer.unknown_id
        special = {name: model.pieces[i].piece for name, i in ids.items()}
        (folder / "spiece.model").write_bytes(Path(path).read_bytes())
        if rule.canonicalize:
            kind = {"tokenizer_class": "SiglipTokenizer", "do_lower_case": rule.lower}
            _write(folder / "tokenizer_config.json", config | special | kind)
            return
        content = _sentencepiece(model, rule.lower)
    names = {name: i for i, name in enumerate(vocab)} if tokenizer.is_wordpiece else None
    added = {token: names[token] if names else ids[kind] for kind, token in special.items()}
    content |= {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            *(_added(token, i, special=True) for token, i in added.items()),
            *content.pop("user_defined", []),
        ],
        "post_processor": _with_end(special["eos_token"], tokenizer.end_id),
    }
    content["added_tokens"].sort(key=lambda token: token["id"])
    _write(folder / "tokenizer.json", content)
    config |= special | {"tokenizer_class": "PreTrainedTokenizerFast"}
    _write(folder / "tokenizer_config.json", config)


def _wordpiece(vocab: list[str]) -> dict[str, Any]:
    """As BERT's, after what tensorflow-text's does beyond it: NFKC and case folding."""
    flags = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
    bert = {"type": "BertNormalizer", **dict.fromkeys(flags, True)}
    folds = [({"Regex": pattern}, content) for pattern, content in FOLDS.items()]
    replacements = [{"type": "Replace", "pattern": p, "content": to} for p, to in folds]
    return {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, *replacements, bert]},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
        "model": {
            "type": "WordPiece",
            "unk_token": UNKNOWN,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: i for i, token in enumerate(vocab)},
        },
    }


def _sentencepiece(model, lower: bool) -> dict[str, Any]:
    """A unigram or BPE model with its normaliser."""
    spec = model.normalizer_spec
    steps: list[dict[str, Any]] = [{"type": "Lowercase"}] if lower else []
    if spec.precompiled_charsmap:
        charsmap = base64.b64encode(spec.precompiled_charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if spec.remove_extra_whitespaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    prefix = "always" if spec.add_dummy_prefix else "never"
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": prefix, "split": False}
    unigram = {
        "type": "Unigram",
        "unk_id": model.trainer_spec.unk_id,
        "vocab": [[piece.piece, piece.score] for piece in model.pieces],
        "byte_fallback": model.trainer_spec.byte_fallback,
    }
    is_bpe = model.trainer_spec.model_type == SENTENCEPIECE_BPE
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "pre_tokenizer": metaspace,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": _bpe(model) if is_bpe else unigram,
        "user_defined": [
            _added(piece.piece, i, special=False)
            for i, piece in enumerate(model.pieces)
            if piece.type == USER_DEFINED
        ],
    }


def _bpe(model) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.pieces[model.trainer_spec.unk_id].piece,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.trainer_spec.byte_fallback,
        "ignore_merges": False,
        "vocab": {piece.piece: i for i, piece in enumerate(model.pieces)},
        "merges": list(_merges(model)),
    }


def _merges(model) -> Iterator[list[str]]:
    """The pairs that make each piece, best first: SentencePiece keeps only the pieces."""
    ids = {piece.piece: i for i, piece in enumerate(model.pieces) if piece.type == NORMAL}
    best = sorted(ids, key=lambda piece: (-model.pieces[ids[piece]].score, ids[piece]))
    for piece in best:
        splits = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        pairs = [(a, b) for a, b in splits if a in ids and b in ids]
        yield from map(list, sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]])))


def _added(token: str, token_id: int, special: bool) -> dict[str, Any]:
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": token, **off, "special": special}


def _with_end(end: str, end_id: int) -> dict[str, Any]:
    def sequence(name: str) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": 0}}

    last = {"SpecialToken": {"id": end, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [sequence("A"), last],
        "pair": [sequence("A"), last, sequence("B"), last],
        "special_tokens": {end: {"id": end, "ids": [end_id], "tokens": [end]}},
    }


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
