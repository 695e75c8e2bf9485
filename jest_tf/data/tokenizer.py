"""Captions to token ids, in graph (tensorflow-text): the same ops in training and in the export."""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text
from google.protobuf.message import DecodeError

from jest_tf.errors import UserError, explaining
from jest_tf.files import write_atomically
from jest_tf.model_record import TokenizerRule

PAD, UNKNOWN, END = "[PAD]", "[UNK]", "[EOS]"
# Longer captions are cut before they are tokenized. A WordPiece token has few bytes; one
# SentencePiece token can stand for a whole run of spaces or of unknown characters.
MAX_BYTES_PER_TOKEN = {"wordpiece": 32, "sentencepiece": 1024}
# What Python's string.punctuation and its \\s hold, for RE2.
PUNCTUATION = r"[!-/:-@\[-`{-~]"
WHITE_SPACE = r"[\s\p{Z}\x{0b}\x{1c}-\x{1f}\x{85}]+"


class Tokenizer(tf.Module):
    """strings [k] -> int32 [k, n_tokens], padded; the last token kept is always the end.

    vocab_path: `.model` for SentencePiece, else a WordPiece vocabulary (one token a line, the first
    [PAD]; [EOS] or [SEP] marks the end), which lowers case and strips accents. vocab_size: rows
    that a token table must have. end_id, unknown_id: in the file. fingerprint changes with file,
    length or rule. UserError: no file, or a vocabulary without the special tokens.
    """

    def __init__(self, vocab_path: str, n_tokens: int, rule: TokenizerRule = TokenizerRule()):
        super().__init__(name="tokenizer")
        if n_tokens < 2:
            raise UserError(f"n_tokens is {n_tokens}; expected at least 2 (a token and the end)")
        self.vocab_path, self.n_tokens, self.rule = vocab_path, n_tokens, rule
        with explaining(
            tf.errors.OpError,
            f"cannot read vocabulary {vocab_path}: {{error}}. Train one with "
            "`python -m jest_tf.train_tokenizer`.",
        ):
            content = tf.io.gfile.GFile(vocab_path, "rb").read()
        self.fingerprint = hashlib.sha256(content).hexdigest()[:16] + f"-{n_tokens}"
        self.fingerprint += f"-{rule}" if str(rule) else ""
        with explaining(
            (RuntimeError, ValueError, tf.errors.OpError),
            f"vocabulary {vocab_path} cannot be used: {{error}}",
        ):
            self._build(content)
            self._trim()

    def _build(self, content: bytes) -> None:
        if self.vocab_path.endswith(".model"):
            self._tokenizer = tf_text.SentencepieceTokenizer(content, out_type=tf.int32)
            self.vocab_size = int(self._tokenizer.vocab_size())
            with_end = tf_text.SentencepieceTokenizer(content, out_type=tf.int32, add_eos=True)
            end = with_end.tokenize("").numpy()
            if not len(end):
                raise UserError(
                    f"SentencePiece model {self.vocab_path} has no end-of-sentence token"
                )
            self.end_id = int(end[-1])
            self.unknown_id = int(self._tokenizer.string_to_id("").numpy())
            self._vocab = None
        else:
            path = self.vocab_path
            with explaining(UnicodeDecodeError, f"vocabulary {path} is not UTF-8 text: {{error}}"):
                self._vocab = vocab = content.decode("utf-8").splitlines()
            ends = {END, "[SEP]"} & set(vocab)
            if not vocab or vocab[0] != PAD or UNKNOWN not in vocab or not ends:
                raise UserError(
                    f"vocabulary {path}: expected one token a line, the first {PAD}, with "
                    f"{UNKNOWN} and {END} (or [SEP]); it starts with {vocab[:3]}"
                )
            self.vocab_size = len(vocab)
            self.end_id = vocab.index(END if END in vocab else "[SEP]")
            self.unknown_id = vocab.index(UNKNOWN)
            self._tokenizer = tf_text.FastBertTokenizer(
                vocab, token_out_type=tf.int32, lower_case_nfd_strip_accents=True
            )

    @property
    def is_wordpiece(self) -> bool:
        """Whether the vocabulary is a list of words and pieces, not a SentencePiece model."""
        return self._vocab is not None

    @property
    def rows(self) -> np.ndarray:
        """int [tokens of the file]: the row of the token table that each id reads."""
        return np.arange(self.vocab_size) if self._rows is None else self._rows

    def _trim(self) -> None:
        """With `kept_ids`: row of every id of the file; ids without a row become the unknown."""
        kept = self.rule.kept_ids
        wrong = [i for i in (*kept, self.rule.pad_id) if not 0 <= i < self.vocab_size]
        missing = {self.end_id, self.rule.pad_id, self.unknown_id} - set(kept) if kept else set()
        if wrong or missing:
            raise UserError(
                f"vocabulary {self.vocab_path} has {self.vocab_size:,} tokens and does not fit the "
                f"model's tokenizer rule: ids {(wrong or sorted(missing))[:5]} are "
                f"{'beyond it' if wrong else 'not kept'}. Give the file of this model."
            )
        self._rows = None
        if kept:
            rows = np.zeros(self.vocab_size, np.int32)
            rows[list(kept)] = np.arange(len(kept))
            rows[np.setdiff1d(np.arange(self.vocab_size), kept)] = kept.index(self.unknown_id)
            self._rows, self.vocab_size = rows, len(kept)

    def _pieces(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """string [k] -> int32 [k, pieces], neither cut to `n_tokens` nor ended."""
        kind = "wordpiece" if self._vocab else "sentencepiece"
        texts = tf.strings.substr(texts, 0, self.n_tokens * MAX_BYTES_PER_TOKEN[kind])
        texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="ignore")
        tokens = self._tokenizer.tokenize(self._normalised(texts))
        # WordPiece: [k, words, pieces]
        return tokens.merge_dims(1, 2) if tokens.ragged_rank == 2 else tokens

    def count_cut(self, texts: Sequence[str | bytes]) -> int:
        """How many of the texts do not fit into `n_tokens`, with the end, and lose words."""
        starts = range(0, len(texts), 1000)
        pieces = (self._pieces(texts[start : start + 1000]) for start in starts)
        return sum(int(tf.math.count_nonzero(p.row_lengths() >= self.n_tokens)) for p in pieces)

    def __call__(self, texts: tf.Tensor) -> tf.Tensor:
        """string [k] -> int32 [k, n_tokens]. Bytes that are not UTF-8 are left out."""
        tokens = self._pieces(texts)[:, : self.n_tokens - 1]
        ends = tf.fill([tokens.nrows(), 1], self.end_id)
        tokens = tf.concat([tokens, tf.cast(ends, tf.int32)], axis=1)
        ids = tokens.to_tensor(self.rule.pad_id, shape=[None, self.n_tokens])
        return ids if self._rows is None else tf.gather(self._rows, ids)

    def _normalised(self, texts: tf.Tensor) -> tf.Tensor:
        if self.rule.lower and not self._vocab:
            if not self.rule.canonicalize:  # SigLIP 2 lowers each character for itself
                texts = tf.strings.regex_replace(texts, "Σ", "σ")
            texts = tf.strings.lower(texts, encoding="utf-8")
        if self.rule.canonicalize:
            texts = tf.strings.regex_replace(texts, PUNCTUATION, "")
            texts = tf.strings.strip(tf.strings.regex_replace(texts, WHITE_SPACE, " "))
        return texts

    def to_text(self, tokens: np.ndarray) -> list[str]:
        """int [k, n_tokens] -> k texts, as far as the tokens tell them; for people to read."""
        if self._rows is not None:
            tokens = np.asarray(self.rule.kept_ids, np.int32)[tokens]
        kept = tf.ragged.boolean_mask(
            tokens, (tokens != self.rule.pad_id) & (tokens != self.end_id)
        )
        if self._vocab is None:
            return [text.decode() for text in self._tokenizer.detokenize(kept).numpy()]
        words = [" ".join(self._vocab[token] for token in row) for row in kept.to_list()]
        return [text.replace(" ##", "") for text in words]


def train_wordpiece(captions: Iterable[str | bytes], vocab_size: int, path: str) -> int:
    """Learns a lower-case WordPiece vocabulary, writes it, one token a line, and returns its size.

    It follows from counts alone, so it is the same on every machine. It has fewer than `vocab_size`
    tokens only if the captions (str or UTF-8 bytes) hold no more.
    """
    from tensorflow_text.python.ops.bert_tokenizer import BasicTokenizer
    from tensorflow_text.tools.wordpiece_vocab import wordpiece_tokenizer_learner_lib as learner

    texts = list(captions)
    if not texts:
        raise UserError("no caption to learn a vocabulary from: is the data set empty?")
    split = BasicTokenizer(lower_case=True)
    starts = range(0, len(texts), 1000)
    words = learner.count_words(split.tokenize(texts[start : start + 1000]) for start in starts)
    reserved = [PAD, UNKNOWN, END]
    # A character takes two tokens, at the start of a word and within one.
    max_chars = min(1000, (vocab_size - len(reserved)) // 2)

    def learn(threshold: int) -> list[str]:
        """All pieces that occur this often. The library's own search may miss the size asked."""
        limits = {"lower_thresh": threshold, "upper_thresh": threshold}
        return learner.learn(words, vocab_size, reserved, max_unique_chars=max_chars, **limits)

    vocab = _closest_vocabulary(learn, vocab_size, most=2 * sum(words.values()))
    write_atomically(path, "\n".join(vocab) + "\n")
    return len(vocab)


def _closest_vocabulary(learn: Callable[[int], list[str]], vocab_size: int, most: int) -> list[str]:
    """The vocabulary of the lowest threshold that fits, filled up from one that does not.

    learn: a count that a piece must reach (none reaches `most`) -> tokens, most frequent first.
    """
    too_low, longer, high, vocab = 0, [], most, learn(most)
    while high - too_low > 1 and len(vocab) < 0.95 * vocab_size:
        middle = max(too_low + 1, math.isqrt(too_low * high))  # counts spread like 1 / rank
        learned = learn(middle)
        if len(learned) > vocab_size:
            too_low, longer = middle, learned
        else:
            high, vocab = middle, learned
    known = set(vocab)
    return vocab + [token for token in longer if token not in known][: vocab_size - len(vocab)]


SENTENCEPIECE_BPE = 2  # TrainerSpec.ModelType


def read_sentencepiece(path: str):
    """The ModelProto of a file; UserError: it is no SentencePiece model."""
    from sentencepiece import sentencepiece_model_pb2

    text = f"{path} cannot be read as a SentencePiece model: {{error}}"
    with explaining((OSError, DecodeError), text), open(path, "rb") as file:
        model = sentencepiece_model_pb2.ModelProto.FromString(file.read())
    if not model.pieces:
        raise UserError(f"{path} is no SentencePiece model: it holds no pieces")
    return model


def piece_id(model, *names: str) -> int | None:
    """Id of the first of these pieces that the model has."""
    ids = {piece.piece: i for i, piece in reversed(list(enumerate(model.pieces)))}
    return next((ids[name] for name in names if name in ids), None)


def is_gemma_like(model) -> bool:
    """BPE, as SigLIP 2 has it; SigLIP's is a unigram model."""
    return model.trainer_spec.model_type == SENTENCEPIECE_BPE


def siglip_rule(model) -> TokenizerRule:
    """SigLIP: lower case, no punctuation, padded with the end token."""
    pad = piece_id(model, "</s>", "<eos>")
    return TokenizerRule(pad_id=1 if pad is None else pad, lower=True, canonicalize=True)


def siglip2_rule(model) -> TokenizerRule:
    """SigLIP 2: lower case, padded with <pad>."""
    return TokenizerRule(pad_id=piece_id(model, "<pad>") or 0, lower=True)
