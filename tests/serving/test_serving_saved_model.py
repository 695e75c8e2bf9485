"""The export against the model in memory, in this process and in one without this package."""

import io
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
from PIL import Image
from small_export import DECODE_SIZE, IMAGE_SIZE, small_export, small_model, small_tokenizer
from tensorflow.core.protobuf import saved_model_pb2

from jest_tf.data import preprocess
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError
from jest_tf.serving.encoders import ExportEncoder, ModelEncoder, read_info
from jest_tf.serving.saved_model import export_dual_encoder, fingerprint

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "serving.md"
TEXTS = ["a red dog", "", "blue squares", "犬 and a word that no vocabulary holds " * 9]

FRESH = """
import json, sys
import numpy as np, tensorflow as tf, tensorflow_text
model = tf.saved_model.load(sys.argv[1])
data = np.load(sys.argv[2], allow_pickle=True)
pair = model.scale_and_bias()
assert not [m for m in sys.modules if m.startswith("jest_tf")]
np.savez(
    sys.argv[3],
    image=model.encode_image(tf.constant(data["image"])),
    files=model.encode_image_bytes(tf.constant(list(data["files"]))),
    text=model.encode_text(tf.constant(list(data["texts"]))),
    scale=pair["scale"], bias=pair["bias"],
)
"""


def encode_file(pixels, kind="PNG"):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return small_tokenizer(folder)


@pytest.fixture(scope="module")
def model(tokenizer):
    return small_model(tokenizer)


@pytest.fixture(scope="module")
def export(folder):
    return small_export(folder)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, DECODE_SIZE, DECODE_SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def live(model, tokenizer):
    return ModelEncoder(model, tokenizer, IMAGE_SIZE, DECODE_SIZE, {})


def test_a_process_with_only_tensorflow_gets_the_same_numbers(
    export, model, tokenizer, pixels, tmp_path
):
    files = np.array([encode_file(p) for p in pixels], object)
    np.savez(tmp_path / "in.npz", image=pixels, files=files, texts=np.array(TEXTS, object))
    done = subprocess.run(
        [sys.executable, "-c", FRESH, export, tmp_path / "in.npz", tmp_path / "out.npz"],
        cwd=tmp_path, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "out.npz")
    # The training's own way: device-side resize by matrices, then the towers.
    zimg = model.encode_image(preprocess.to_model_range(preprocess.resize(pixels, IMAGE_SIZE)))
    np.testing.assert_allclose(found["image"], zimg, atol=1e-5)
    np.testing.assert_allclose(found["files"], zimg, atol=1e-5)
    ztxt = model.encode_text(tokenizer(tf.constant(TEXTS)))
    np.testing.assert_allclose(found["text"], ztxt, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found["text"], axis=1), 1.0, atol=1e-5)
    assert found["scale"] == pytest.approx(10.0, rel=1e-6) and found["bias"] == -10.0


def test_images_of_any_size_are_resized_antialiased(export, model):
    rng = np.random.default_rng(1)
    large = rng.integers(0, 256, (2, 61, 40, 3), np.uint8)
    resized = tf.image.resize(large, [IMAGE_SIZE, IMAGE_SIZE], antialias=True)
    truth = model.encode_image(resized / 127.5 - 1.0)
    np.testing.assert_allclose(ExportEncoder(export).encode_image(large), truth, atol=1e-5)


def test_undecodable_files_give_zero_rows_and_spoil_no_other(export, live, pixels):
    good = encode_file(pixels[0])
    jpeg = encode_file(np.tile(pixels[1], (5, 5, 1)), "JPEG")
    files = [b"", good, b"no picture", good[:100], jpeg[: len(jpeg) // 2], good]
    zimg, ok = ExportEncoder(export).encode_image_bytes(files)
    assert ok.tolist() == [False, True, False, False, False, True]
    assert not zimg[~ok].any()
    np.testing.assert_allclose(zimg[ok], live.encode_image(pixels[[0, 0]]), atol=1e-5)


def test_decoding_keeps_the_order_of_many_files():
    shades = np.arange(90) * 2
    files = [encode_file(np.full((8, 8, 3), shade, np.uint8)) for shade in shades]
    images, ok = preprocess.decode_all(tf.constant(files), 8)
    assert ok.numpy().all()
    assert images.numpy()[:, 0, 0, 0].tolist() == shades.tolist()


def test_any_batch_size_runs_without_compiling(export):
    saved = saved_model_pb2.SavedModel.FromString(
        pathlib.Path(export, "saved_model.pb").read_bytes()
    )
    functions = saved.meta_graphs[0].graph_def.library.function
    assert len(functions) > 10
    assert not any("_XlaMustCompile" in f.attr for f in functions)
    assert not any("_XlaMustCompile" in node.attr for f in functions for node in f.node_def)


def test_empty_batches(export):
    encoder = ExportEncoder(export)
    assert encoder.encode_text([]).shape == (0, 8)
    assert encoder.encode_image_bytes([])[0].shape == (0, 8)


def test_bfloat16_and_sentencepiece_are_exported_in_float32(tmp_path, pixels):
    text = tmp_path / "text.txt"
    text.write_text("a red dog\nblue squares\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "sp"), vocab_size=40, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    tokenizer = Tokenizer(str(tmp_path / "sp.model"), 6)
    trained = small_model(tokenizer, dtype="mixed_bfloat16")
    truth = small_model(tokenizer, seed=1)
    truth.set_weights(trained.get_weights())
    export_dual_encoder(trained, tokenizer, DECODE_SIZE, str(tmp_path / "e"), {})
    encoder = ExportEncoder(str(tmp_path / "e"))
    ztxt = encoder.encode_text(TEXTS)
    np.testing.assert_allclose(ztxt, truth.encode_text(tokenizer(tf.constant(TEXTS))), atol=1e-5)
    zimg = encoder.encode_image(pixels)
    np.testing.assert_allclose(zimg, truth.encode_image(pixels / 127.5 - 1.0), atol=1e-5)
    np.testing.assert_allclose(zimg, trained.encode_image(pixels / 127.5 - 1.0), atol=0.05)
    assert (tmp_path / "e" / "assets.extra" / "sp.model").exists()


def test_what_lies_beside_the_graph(export, tokenizer):
    info = read_info(export)
    assert (info["image_size"], info["decode_size"], info["embed_dim"]) == (16, 24, 8)
    with open(f"{export}/assets.extra/vocab.txt") as kept, open(tokenizer.vocab_path) as vocab:
        assert kept.read() == vocab.read()
    with open(f"{export}/model_card.md") as card:
        text = card.read()
    assert "# Model card: small" in text and info["fingerprint"] in text


def test_fingerprint_changes_with_weights_and_sizes_only(model, tokenizer, export):
    known = fingerprint(model, tokenizer, IMAGE_SIZE, DECODE_SIZE)
    assert known == read_info(export)["fingerprint"]
    assert known == fingerprint(small_model(tokenizer), tokenizer, IMAGE_SIZE, DECODE_SIZE)
    assert known != fingerprint(model, tokenizer, IMAGE_SIZE, IMAGE_SIZE)
    other = small_model(tokenizer)
    other.bias.assign(-3.0)
    assert known != fingerprint(other, tokenizer, IMAGE_SIZE, DECODE_SIZE)


def test_a_diverged_model_is_not_exported(tokenizer, tmp_path):
    broken = small_model(tokenizer)
    broken.bias.assign(float("nan"))
    with pytest.raises(UserError, match="bias is not finite"):
        export_dual_encoder(broken, tokenizer, IMAGE_SIZE, str(tmp_path / "e"), {})
    assert not list(tmp_path.iterdir())


def test_other_folders_are_left_alone(model, tokenizer, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is no export"):
        export_dual_encoder(model, tokenizer, IMAGE_SIZE, str(tmp_path), {})
    with pytest.raises(UserError, match="holds no exported model"):
        ExportEncoder(str(tmp_path))
    with pytest.raises(UserError, match="thesis.txt/e cannot be written: .*Give another --out"):
        export_dual_encoder(model, tokenizer, IMAGE_SIZE, str(tmp_path / "thesis.txt" / "e"), {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_in_the_place_of_an_export_is_told(tmp_path):
    (tmp_path / "model.json").write_text('{"schema": 1}')
    with pytest.raises(UserError, match=f"perhaps a run. .*export --workdir={tmp_path}"):
        ExportEncoder(str(tmp_path))


def test_an_older_export_is_replaced(model, tokenizer, tmp_path):
    path = tmp_path / "e"
    path.mkdir()
    (path / "model.json").write_text(json.dumps({"old": True}))
    (path / "old_file").write_text("")
    export_dual_encoder(model, tokenizer, IMAGE_SIZE, str(path), {})
    assert read_info(str(path))["image_size"] == IMAGE_SIZE
    assert not (path / "old_file").exists() and len(list(tmp_path.iterdir())) == 1


def test_signatures_have_the_names_types_and_shapes_that_the_page_lists(export):
    model = tf.saved_model.load(export)
    d = model.encode_text(tf.constant(["a"])).shape[1]
    row = re.compile(r"^\| `(\w+)` \| `(\w+)`, (\w+) \| \[(.*?)\] \| `(\w+)`, (\w+) \|", re.M)
    rows = row.findall(PAGE.read_text(encoding="utf-8"))
    names = {name for name, *_ in rows} | {"scale_and_bias", "serving_default"}
    assert len(rows) == 3 and names == set(model.signatures)
    inputs = {name: s.structured_input_signature[1] for name, s in model.signatures.items()}
    for name, given, dtype, shape, gives, out_dtype in rows:
        assert {name: spec.dtype.name for name, spec in inputs[name].items()} == {given: dtype}
        sizes = [3 if size == "3" else None for size in shape.split(", ")]
        assert inputs[name][given].shape.as_list() == sizes
        ((key, spec),) = model.signatures[name].structured_outputs.items()
        assert (key, spec.dtype.name, spec.shape.as_list()) == (gives, out_dtype, [None, d])
    assert inputs["serving_default"] == inputs["encode_image"] and not inputs["scale_and_bias"]
    outputs = model.signatures["scale_and_bias"].structured_outputs
    assert {k: spec.shape.as_list() for k, spec in outputs.items()} == {"scale": [], "bias": []}
    texts = tf.constant(TEXTS)
    answer = model.signatures["encode_text"](texts=texts)["output_0"]
    np.testing.assert_allclose(answer, model.encode_text(texts), atol=1e-6)
