"""Token ids equal to those of transformers' tokenizers, on awkward strings (make_tokens.py)."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from jest_tf.data import tokenizer
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError
from jest_tf.model_record import TokenizerRule

HERE = pathlib.Path(__file__).parent
RULES = {
    "siglip": tokenizer.siglip_rule,
    "siglip2": tokenizer.siglip2_rule,
}


@pytest.fixture(scope="module")
def golden():
    with np.load(HERE / "tokens.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def rule_of(name: str) -> TokenizerRule:
    return RULES[name](tokenizer.read_sentencepiece(str(HERE / f"{name}.model")))


@pytest.mark.parametrize("name", RULES)
def test_ids_equal_those_of_transformers(golden, name):
    texts, expected = json.loads(bytes(golden["texts"])), golden[name]
    assert len(texts) >= 200
    tokenizer = Tokenizer(str(HERE / f"{name}.model"), expected.shape[1], rule_of(name))
    ids = tokenizer(tf.constant([text.encode() for text in texts])).numpy()
    different = [t for t, a, b in zip(texts, ids, expected, strict=True) if (a != b).any()]
    assert different == []


def test_a_trimmed_table_gives_rows_of_the_same_tokens(golden):
    texts, expected = json.loads(bytes(golden["texts"]))[60:100], golden["siglip"][60:100]
    kept = np.unique(np.append(expected, [0, 1, 2]))
    rule = dataclasses.replace(rule_of("siglip"), kept_ids=tuple(kept.tolist()))
    tokenizer = Tokenizer(str(HERE / "siglip.model"), 16, rule)
    assert tokenizer.vocab_size == len(kept) < 86
    rows = tokenizer(tf.constant(texts)).numpy()
    np.testing.assert_array_equal(kept[rows], expected)
    unseen = tokenizer(tf.constant(["☃"])).numpy()
    assert kept[unseen[0, 0]] in (2, *expected.ravel())
    whole = Tokenizer(str(HERE / "siglip.model"), 16, rule_of("siglip"))
    assert tokenizer.to_text(rows) == whole.to_text(expected.astype(np.int32))


@pytest.mark.parametrize(
    "rule, told",
    [
        (TokenizerRule(pad_id=500), r"ids \[500\] are beyond it"),
        (TokenizerRule(kept_ids=(0, 3, 4)), r"ids \[1, 2\] are not kept"),
        (TokenizerRule(kept_ids=(0, 1, 2, 99)), r"ids \[99\] are beyond it"),
    ],
)
def test_a_rule_of_another_vocabulary_is_refused(rule, told):
    with pytest.raises(UserError, match=told):
        Tokenizer(str(HERE / "siglip.model"), 16, rule)


def test_the_family_is_read_from_the_file(tmp_path):
    first, second = (tokenizer.read_sentencepiece(str(HERE / f"{name}.model")) for name in RULES)
    assert not tokenizer.is_gemma_like(first)
    assert tokenizer.is_gemma_like(second)
    for content in (b"", b"\xff\xff\xff", b"no model at all"):
        (tmp_path / "x.model").write_bytes(content)
        with pytest.raises(UserError, match="SentencePiece"):
            tokenizer.read_sentencepiece(str(tmp_path / "x.model"))
