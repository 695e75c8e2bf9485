"""model.json: what is written is read again, and what is not ours is refused."""

import dataclasses
import json

import pytest

from jest_tf.errors import UserError
from jest_tf.model_record import FILE, ModelRecord, PixelRule, TokenizerRule

RECORD = ModelRecord(
    sizes={"embed_dim": 8},
    vocabulary="vocab.model",
    fingerprint="abc-16",
    end_id=1,
    n_tokens=16,
    image_size=378,
    tokenizer=TokenizerRule(pad_id=1, lower=True, canonicalize=True, kept_ids=(0, 1, 2, 9)),
    pixels=PixelRule("bicubic", antialias=True, margin=6),
)


def test_what_is_written_is_read_again(tmp_path):
    RECORD.save(tmp_path)
    assert ModelRecord.load(tmp_path) == RECORD
    content = json.loads((tmp_path / FILE).read_text())
    assert content["pixels"] == {
        "size": 384, "crop": 378, "resize": "bicubic", "antialias": True, "range": [-1.0, 1.0],
    }  # fmt: skip
    assert content["tokenizer"]["file"] == "vocab.model"


def test_an_older_run_has_none(tmp_path):
    assert ModelRecord.load(tmp_path) is None


@pytest.mark.parametrize("change", ["{", "[]", '{"schema": 9}', '{"schema": 1}'])
def test_damage_is_told(tmp_path, change):
    (tmp_path / FILE).write_text(change)
    with pytest.raises(UserError, match=r"model\.json cannot be used"):
        ModelRecord.load(tmp_path)


def test_rules_that_differ_read_differently():
    rules = [
        TokenizerRule(), TokenizerRule(1), TokenizerRule(lower=True),
        TokenizerRule(canonicalize=True), TokenizerRule(kept_ids=(0, 1)),
        TokenizerRule(kept_ids=(0, 2)),
    ]  # fmt: skip
    assert len({str(rule) for rule in rules}) == len(rules) and str(rules[0]) == ""
    pixels = [PixelRule(), *(dataclasses.replace(PixelRule(), **c) for c in (
        {"resize": "bicubic"}, {"antialias": False}, {"margin": 6},
    ))]  # fmt: skip
    assert len({str(rule) for rule in pixels}) == len(pixels)
