"""Public formats out: bit-equal round trips, and files that other libraries load.

check_exports.py loads the Hugging Face folders with transformers itself, in its own environment.
"""

import json

import big_vision_layout as layout
import keras
import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from golden_models import GOLDEN, HERE, huggingface_tensors, imported, stored
from safetensors.numpy import load_file
from small_run import small_data, small_run

from jest_tf import export
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError
from jest_tf.model_record import TokenizerRule
from jest_tf.models.dual_encoder import DualEncoder
from jest_tf.serving.public_formats import export_public, interpolate
from jest_tf.serving.transformers_tokenizer import write_tokenizer
from jest_tf.training.run.imported import Options, import_run
from jest_tf.training.run.restore import load_workdir


def test_huggingface_there_and_back_is_bit_equal(tmp_path):
    run = imported("siglip", tmp_path)
    assert export_public(run.model, run.tokenizer, "huggingface", str(tmp_path / "hf")) == []
    before, after = huggingface_tensors("siglip"), load_file(tmp_path / "hf" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    assert len({file.stat().st_mode for file in (tmp_path / "hf").iterdir()}) == 1
    configs = [
        json.loads((p / "config.json").read_text()) for p in (GOLDEN / "siglip", tmp_path / "hf")
    ]
    for part in ("vision_config", "text_config"):
        theirs, ours = (config[part] for config in configs)
        assert {k: ours.get(k) for k in theirs} == theirs
    pixels = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())
    theirs = json.loads((GOLDEN / "siglip" / "processor_config.json").read_text())
    assert theirs["image_processor"].items() <= pixels.items()
    words = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert (words["tokenizer_class"], words["pad_token"]) == ("SiglipTokenizer", "</s>")
    assert (tmp_path / "hf" / "spiece.model").read_bytes() == (HERE / "siglip.model").read_bytes()
    # And in again, with nothing but the folder.
    io = str(GOLDEN / "siglip" / "io.npz")
    import_run(str(tmp_path / "hf"), str(tmp_path / "again"), Options(check=io), lambda line: None)
    again = load_workdir(str(tmp_path / "again"))
    assert again.tokenizer.fingerprint == run.tokenizer.fingerprint
    assert again.model.pixels == run.model.pixels


def test_bfloat16_weights_come_back_as_the_same_numbers(tmp_path):
    run = imported("siglip2_shards", tmp_path)
    export_public(run.model, run.tokenizer, "huggingface", str(tmp_path / "hf"))
    after = load_file(tmp_path / "hf" / "model.safetensors")
    for name, value in huggingface_tensors("siglip2_shards").items():
        np.testing.assert_array_equal(after[name], value.astype(np.float32), err_msg=name)
    words = json.loads((tmp_path / "hf" / "tokenizer.json").read_text())
    assert words["normalizer"]["normalizers"] == [{"type": "Lowercase"}]
    assert words["model"]["type"] == "BPE" and len(words["model"]["vocab"]) == 460
    assert words["post_processor"]["special_tokens"]["</s>"]["ids"] == [1]


def test_big_vision_by_the_table_of_its_names(tmp_path):
    run = imported("siglip", tmp_path)
    (remark,) = export_public(run.model, run.tokenizer, "big_vision", str(tmp_path / "x.npz"))
    assert "32 px" in remark and "padded with 1" in remark
    expected = layout.from_huggingface(huggingface_tensors("siglip"), {"img": 2, "txt": 4})
    with np.load(tmp_path / "x.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == {f"params/{name}" for name in expected}
        for name, value in expected.items():
            np.testing.assert_array_equal(arrays[f"params/{name}"], value, err_msg=name)


def test_a_keras_file_computes_the_same_with_keras_alone(tmp_path):
    run, io = imported("siglip", tmp_path), stored("siglip")
    export_public(run.model, run.tokenizer, "keras", str(tmp_path / "x.keras"))
    model = keras.models.load_model(tmp_path / "x.keras")
    out = model([io["images"], io["tokens"]])
    np.testing.assert_allclose(out["zimg"], io["zimg"], atol=1e-5)
    np.testing.assert_allclose(out["ztxt"], io["ztxt"], atol=1e-5)
    scale, bias = float(run.model.scale), float(tf.convert_to_tensor(run.model.bias))
    np.testing.assert_allclose(out["logits"], scale * io["zimg"] @ io["ztxt"].T + bias, atol=1e-4)
    zimg = model.get_layer("image_tower")(io["images"][:1])
    np.testing.assert_allclose(zimg, io["zimg"][:1], atol=1e-5)


def test_a_trimmed_table_is_whole_again_outside(tmp_path):
    data = small_data(tmp_path)
    run = imported("siglip", tmp_path, trim_vocab=data)
    export_public(run.model, run.tokenizer, "huggingface", str(tmp_path / "hf"))
    import_run(str(tmp_path / "hf"), str(tmp_path / "whole"), report=lambda line: None)
    whole = load_workdir(str(tmp_path / "whole"))
    assert whole.model.config.vocab_size == 86
    captions = tf.constant(["red square", "dark blue square", "☃ and other words"])
    ztxt = [r.model.encode_text(r.tokenizer(captions)).numpy() for r in (run, whole)]
    np.testing.assert_array_equal(*ztxt)


def test_a_model_of_our_own_is_exported(tmp_path):
    """WordPiece and SentencePiece without SigLIP's rule become a tokenizer.json."""
    run = load_workdir(str(small_run(tmp_path, steps=(10,))))
    export_public(run.model, run.tokenizer, "huggingface", str(tmp_path / "hf"))
    words = json.loads((tmp_path / "hf" / "tokenizer.json").read_text())
    assert words["model"]["type"] == "WordPiece"
    assert [(t["id"], t["content"]) for t in words["added_tokens"]] == [
        (0, "[PAD]"), (1, "[UNK]"), (2, "[EOS]"),
    ]  # fmt: skip
    plain = Tokenizer(str(HERE / "siglip.model"), 8)
    write_tokenizer(plain, tmp_path)
    words = json.loads((tmp_path / "tokenizer.json").read_text())
    assert words["model"]["type"] == "Unigram" and words["model"]["unk_id"] == 2


def test_a_model_of_our_own_comes_back_in_half_precision(tmp_path):
    run = load_workdir(str(small_run(tmp_path, steps=(10,))))
    export_public(run.model, run.tokenizer, "huggingface", str(tmp_path / "hf"), "float16")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    assert {value.dtype.name for value in tensors.values()} == {"float16"}
    import_run(str(tmp_path / "hf"), str(tmp_path / "again"), report=lambda line: None)
    again = load_workdir(str(tmp_path / "again"))
    assert again.tokenizer.fingerprint == run.tokenizer.fingerprint
    assert again.model.pixels == run.model.pixels
    for before, after in zip(run.model.variables, again.model.variables, strict=True):
        np.testing.assert_array_equal(
            after.numpy(), before.numpy().astype(np.float16), err_msg=before.path
        )


# Characters that BERT's cleaning drops in its own way, and runs of combining marks.
RARE = set("\x00\ufffd\ue000\U0010ffff\u0378\u200b\u200d\ufeff\u202e\u0301")


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe", "siglip2"])
def test_a_tokenizer_json_gives_our_ids(kind, tmp_path):
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,.!?'-"
    words = ["[PAD]", "[UNK]", "[EOS]", *letters, "the", "dog", "photo", "##og", "日", "strasse"]
    (tmp_path / "vocab.txt").write_text("\n".join([*words, *(f"##{x}" for x in letters)]) + "\n")
    second = str(HERE / "siglip2.model")
    tokenizer = {
        "wordpiece": lambda: Tokenizer(str(tmp_path / "vocab.txt"), 16),
        "unigram": lambda: Tokenizer(str(HERE / "siglip.model"), 16),
        "bpe": lambda: Tokenizer(second, 16),
        "siglip2": lambda: Tokenizer(second, 16, TokenizerRule(lower=True)),
    }[kind]()
    write_tokenizer(tokenizer, tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.enable_truncation(16)
    theirs.enable_padding(length=16, pad_id=0, pad_token="x")
    with np.load(HERE / "tokens.npz") as arrays:
        texts = json.loads(bytes(arrays["texts"]))
    # The name of a special token is that token for transformers, and plain text for us.
    texts = [t for t in texts if not RARE & set(t) and t != "[PAD]"]
    assert len(texts) > 200
    ours = tokenizer(tf.constant(texts)).numpy()
    expected = [encoding.ids for encoding in theirs.encode_batch(texts)]
    assert [t for t, a, b in zip(texts, ours.tolist(), expected, strict=True) if a != b] == []


def test_interpolation_of_weights(tmp_path):
    tuned, start = (imported("siglip", tmp_path / name) for name in "ab")
    for variable in tuned.model.variables:
        variable.assign(variable + 1.0)
    interpolate(tuned.model, start.model, 0.25)
    for a, b in zip(tuned.model.variables, start.model.variables, strict=True):
        np.testing.assert_allclose(a, b + 0.25, atol=1e-6)
    other = imported("open_clip", tmp_path)
    with pytest.raises(UserError, match="other sizes"):
        interpolate(tuned.model, other.model, 0.5)


@pytest.fixture
def run_export(monkeypatch):
    def run(**flags):
        values = {"workdir": None, "out": None, "step": None, "format": "saved_model",
                  "interpolate": None, "with": None} | flags  # fmt: skip
        for name, value in values.items():
            monkeypatch.setattr(export.FLAGS[name], "value", value)
        monkeypatch.setattr(export.FLAGS[name], "present", 1)
        export.FLAGS.mark_as_parsed()
        export.main(["export"])

    return run


def test_the_command_writes_every_format(run_export, tmp_path, capsys):
    imported("siglip", tmp_path)
    workdir = str(tmp_path / "siglip-run")
    for kind, name in (
        ("huggingface", "export_huggingface"),
        ("big_vision", "export_big_vision.npz"),
        ("keras", "export_towers.keras"),
        ("saved_model", "export"),
    ):
        run_export(workdir=workdir, format=kind, interpolate=0.5, **{"with": workdir})
        assert (tmp_path / "siglip-run" / name).exists()
    assert "it holds no tokenizer" in capsys.readouterr().out


def test_weights_of_runs_that_read_text_otherwise_are_not_averaged(run_export, tmp_path):
    imported("siglip", tmp_path / "a")
    imported("siglip", tmp_path / "b", text="plain")
    with pytest.raises(UserError, match="expected the run that it was tuned from"):
        run_export(
            workdir=str(tmp_path / "a" / "siglip-run"), interpolate=0.5,
            **{"with": str(tmp_path / "b" / "siglip-run")},
        )  # fmt: skip


def test_what_is_there_or_does_not_fit_is_refused(run_export, tmp_path):
    run = imported("siglip", tmp_path)
    workdir = str(tmp_path / "siglip-run")
    with pytest.raises(UserError, match="there already"):
        run_export(workdir=workdir, format="huggingface", out=workdir)
    with pytest.raises(UserError, match=r"is no export of this program"):
        run_export(workdir=workdir, out=workdir)
    with pytest.raises(UserError, match=r"ends on \.npz"):
        run_export(workdir=workdir, format="big_vision", out=str(tmp_path / "x.zip"))
    with pytest.raises(UserError, match="go together"):
        run_export(workdir=workdir, interpolate=0.5)
    run.model.bias.assign(np.nan)
    with pytest.raises(UserError, match="not finite"):
        export_public(run.model, run.tokenizer, "keras", str(tmp_path / "x.keras"))
    config = run.model.config
    narrow = DualEncoder(type(config)(30, 10, 16, 86, 8, config.image, config.text))
    with pytest.raises(UserError, match="no place for image/projection/bias"):
        export_public(narrow, run.tokenizer, "huggingface", str(tmp_path / "y"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["siglip-run"]
