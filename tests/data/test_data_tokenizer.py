"""Token ids: special tokens, cropping, odd bytes, both vocabulary formats, the command."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from commands import run

from jest_tf import train_tokenizer
from jest_tf.data.tokenizer import Tokenizer, train_wordpiece
from jest_tf.errors import UserError

TEXTS = [
    "a red dog",
    "two dogs and a cat",
    "the record of dogs",
    "cats and dogs",
    "red record",
] * 20


def test_words_pieces_end_and_padding(vocab_path):
    tokenizer = Tokenizer(vocab_path, n_tokens=6)
    tokens = tokenizer(tf.constant(["Red dogs", "", "dog dog dog dog dog dog dog", "RÉD 12"]))
    assert tokens.shape == (4, 6) and tokens.dtype == tf.int32
    assert tokens.numpy().tolist() == [
        [4, 5, 6, 2, 0, 0],
        [2, 0, 0, 0, 0, 0],
        [5, 5, 5, 5, 5, 2],
        [4, 8, 19, 2, 0, 0],
    ]


def test_bytes_that_are_no_text_do_no_harm(vocab_path):
    tokenizer = Tokenizer(vocab_path, n_tokens=4)
    million = b"dog " * 250_000
    tokens = tokenizer(tf.constant([b"\xff\xfered\x80", million, b"\x00", "犬".encode()])).numpy()
    assert tokens[0].tolist() == [4, 2, 0, 0]
    assert tokens[1].tolist() == [5, 5, 5, 2]
    assert ((tokens >= 0) & (tokens < tokenizer.vocab_size)).all()


def test_the_fingerprint_tells_vocabularies_and_lengths_apart(vocab_path, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(Path(vocab_path).read_text() + "cat\n")
    prints = {Tokenizer(p, n).fingerprint for p in (vocab_path, str(other)) for n in (8, 9)}
    assert len(prints) == 4
    assert Tokenizer(vocab_path, 8).fingerprint in prints


def test_a_vocabulary_learned_from_captions_splits_no_frequent_word(tmp_path):
    path = str(tmp_path / "v.txt")
    size = train_wordpiece(TEXTS, 200, path)
    tokenizer = Tokenizer(path, n_tokens=8)
    assert tokenizer.vocab_size == size <= 200
    tokens = tokenizer(tf.constant(["red dog record"])).numpy()[0]
    vocab = Path(path).read_text().splitlines()
    assert [vocab[t] for t in tokens[:4]] == ["red", "dog", "record", "[EOS]"]
    with pytest.raises(UserError, match="empty"):
        train_wordpiece([], 100, path)


@pytest.mark.parametrize("vocab_size", [100, 400, 1000])
def test_a_vocabulary_has_the_size_that_was_asked(tmp_path, vocab_size):
    """However rare the words are: here the most frequent of 2,000 occurs 50 times, half once."""
    rng = np.random.default_rng(0)
    rank = rng.permutation(2000)
    words = ["".join(rng.choice(list("abcdefghij"), 6)) for _ in rank]
    texts = [word for word, r in zip(words, rank, strict=True) for _ in range(50 // (r + 1) + 1)]
    paths = [str(tmp_path / name) for name in ("v.txt", "again.txt")]
    assert train_wordpiece(texts, vocab_size, paths[0]) == vocab_size
    train_wordpiece(rng.permutation(texts), vocab_size, paths[1])
    vocab, again = (Path(path).read_text().splitlines() for path in paths)
    assert vocab == again and len(set(vocab)) == vocab_size
    assert {*"abcdefghij"} | {f"##{letter}" for letter in "abcdefghij"} <= set(vocab)


def test_captions_that_are_cut_are_counted(vocab_path):
    tokenizer = Tokenizer(vocab_path, n_tokens=4)
    assert tokenizer.count_cut(["red dog", "", "red dog red", "red dog red dog"]) == 1
    assert tokenizer.count_cut([b"dogs dogs"] * 1001) == 1001
    assert tokenizer.count_cut([]) == 0


def test_sentencepiece_keeps_the_end_when_cropped(tmp_path):
    import sentencepiece

    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXTS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "sp"), vocab_size=100, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    truth = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sp.model"))
    tokenizer = Tokenizer(str(tmp_path / "sp.model"), n_tokens=7)
    assert tokenizer.vocab_size == truth.vocab_size()
    for text in ("red dog", "two dogs and a cat and the record of a red dog"):
        pieces = truth.encode(text)[:6] + [1]
        assert tokenizer(tf.constant([text])).numpy()[0].tolist() == pieces + [0] * (
            7 - len(pieces)
        )


def test_bad_vocabularies_are_refused(tmp_path):
    with pytest.raises(UserError, match="train_tokenizer"):
        Tokenizer(str(tmp_path / "none.txt"), 8)
    (tmp_path / "v.txt").write_text("dog\ncat\n")
    with pytest.raises(UserError, match="PAD"):
        Tokenizer(str(tmp_path / "v.txt"), 8)
    (tmp_path / "v.txt").write_bytes(b"[PAD]\n[UNK]\n[EOS]\n\xff\n")
    with pytest.raises(UserError, match="not UTF-8"):
        Tokenizer(str(tmp_path / "v.txt"), 8)
    (tmp_path / "v.txt").write_text("[PAD]\n[UNK]\n[EOS]\ndog\ndog\n")
    with pytest.raises(UserError, match="unique"):
        Tokenizer(str(tmp_path / "v.txt"), 8)
    (tmp_path / "v.model").write_bytes(b"no SentencePiece model")
    with pytest.raises(UserError, match="v.model cannot be used"):
        Tokenizer(str(tmp_path / "v.model"), 8)


def test_the_command_trains_from_a_manifest(make_manifest, tmp_path, capsys):
    make_manifest([60]).save(str(tmp_path / "manifest.json"))
    out = tmp_path / "v.txt"
    assert run(train_tokenizer, [f"--data={tmp_path}", f"--out={out}", "--vocab_size=64"]) == 0
    assert "record" in out.read_text().splitlines()
    assert run(train_tokenizer, ["--data=/no/such/set", f"--out={out}"]) == 2
    assert "/no/such/set" in capsys.readouterr().err


def test_tokens_read_back_as_text(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[EOS]", "red", "dog", "##s"]) + "\n")
    tokenizer = Tokenizer(str(path), 5)
    tokens = tokenizer(tf.constant(["Red dogs", "", "red red red red red"])).numpy()
    assert tokenizer.to_text(tokens) == ["red dogs", "", "red red red red"]
