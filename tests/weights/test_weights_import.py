"""Public formats in: embeddings equal those of their own code; what does not fit is told."""

import contextlib
import json
import math
import shutil

import big_vision_layout as layout
import numpy as np
import pytest
import tensorflow as tf
from golden_models import GOLDEN, copied, huggingface_tensors, imported, stored, vocabulary
from safetensors.numpy import save_file
from small_run import small_data

from jest_tf.errors import UserError
from jest_tf.model_record import ModelRecord, PixelRule
from jest_tf.models.dual_encoder import DualEncoderConfig, TowerConfig
from jest_tf.models.weights import FORMATS, rules
from jest_tf.models.weights.folder import open_source
from jest_tf.models.weights.tensors import Tensor
from jest_tf.serving.encoders import ModelEncoder
from jest_tf.training.run.imported import Options, import_run
from jest_tf.training.run.restore import load_workdir

HEADS = {"img": 2, "txt": 4}


def quiet(path, out, **options):
    import_run(str(path), str(out), Options(**options), report=lambda line: None)


@pytest.mark.parametrize("name", ["siglip", "siglip2_shards", "naflex", "open_clip"])
def test_embeddings_equal_those_of_the_other_library(name, tmp_path):
    run, io = imported(name, tmp_path), stored(name)
    side = run.model.config.image_size
    zimg = run.model.encode_image(tf.constant(io["images"][:, :side, :side]))
    ztxt = run.model.encode_text(tf.constant(io["tokens"]))
    np.testing.assert_allclose(zimg, io["zimg"], atol=1e-5)
    np.testing.assert_allclose(ztxt, io["ztxt"], atol=1e-5)
    assert run.step == 0
    assert run.config.model.variant == "custom"


def test_rules_of_text_and_pixels_travel(tmp_path):
    first, second = (imported(name, tmp_path) for name in ("siglip", "siglip2_shards"))
    assert first.model.pixels == PixelRule("bicubic", antialias=True, margin=2)
    assert second.model.pixels == PixelRule("bilinear", antialias=True)
    assert str(first.tokenizer.rule) == "pad1-lower-canonical"
    assert str(second.tokenizer.rule) == "pad0-lower"
    record = ModelRecord.load(tmp_path / "siglip-run")
    assert (record.image_size, record.n_tokens, record.end_id) == (30, 16, 1)
    assert record.sizes["text"]["heads"] == 4


def test_an_import_encodes_raw_texts_and_pictures(tmp_path):
    run = imported("siglip", tmp_path)
    encoder = ModelEncoder(run.model, run.tokenizer, 30, run.config.data.image_size, {})
    assert encoder.encode_text(["The dog!", "the dog"]).std(axis=0).max() < 1e-6
    images = np.random.default_rng(0).integers(0, 256, (2, 30, 30, 3), np.uint8)
    expected = run.model.encode_image(tf.constant(images / 127.5 - 1, tf.float32))
    np.testing.assert_allclose(encoder.encode_image(images), expected, atol=1e-6)


@pytest.fixture(scope="module")
def blocks():
    return layout.from_huggingface(huggingface_tensors("siglip"), HEADS)


@pytest.mark.parametrize("change", ["blocks", "params", "stacked", "params_stacked"])
def test_big_vision_layouts(blocks, change, tmp_path):
    tensors = layout.stacked(blocks) if "stacked" in change else dict(blocks)
    tensors = layout.with_prefix(tensors) if "params" in change else tensors
    np.savez(tmp_path / "x.npz", **tensors)
    quiet(
        tmp_path / "x.npz", tmp_path / "run", vocab=vocabulary("siglip"), image_size=32,
        check=str(GOLDEN / "siglip" / "io.npz"),
    )  # fmt: skip
    run = load_workdir(str(tmp_path / "run"))
    assert run.model.config.image.heads == 2  # in the shapes of the kernels
    assert run.model.pixels == PixelRule("bilinear", antialias=False, margin=2)


def test_big_vision_old_positions_bfloat16_and_no_head(blocks, tmp_path):
    old = dict(blocks)
    extra = np.random.default_rng(0).normal(size=old["txt/pos_embedding"].shape)
    old["txt/Encoder_0/pos_embedding"] = extra.astype(np.float32)
    old["txt/pos_embedding"] = old["txt/pos_embedding"] - old["txt/Encoder_0/pos_embedding"]
    np.savez(tmp_path / "old.npz", **old)
    check = str(GOLDEN / "siglip" / "io.npz")
    quiet(tmp_path / "old.npz", tmp_path / "old", vocab=vocabulary("siglip"), check=check)

    second = layout.from_huggingface(huggingface_tensors("siglip2_shards"), {"img": 4, "txt": 2})
    headless = layout.as_void(layout.stacked(second))
    np.savez(tmp_path / "void.npz", **headless)
    check = str(GOLDEN / "siglip2_shards" / "io.npz")
    vocab = vocabulary("siglip2_shards")
    quiet(tmp_path / "void.npz", tmp_path / "void", vocab=vocab, check=check)

    headless = {k: v for k, v in headless.items() if not k.startswith("txt/head")}
    np.savez(tmp_path / "headless.npz", **headless)
    quiet(tmp_path / "headless.npz", tmp_path / "headless", vocab=vocab)
    projection = load_workdir(str(tmp_path / "headless")).model.text_tower.projection
    np.testing.assert_array_equal(projection.kernel, np.eye(16))
    np.testing.assert_array_equal(projection.bias, np.zeros(16))


def test_keras_hub(tmp_path):
    import keras_hub

    sizes = {"hidden_dim": 24, "num_layers": 2, "num_heads": 2, "intermediate_dim": 40}
    backbone = keras_hub.models.SigLIPBackbone(
        vision_encoder=keras_hub.models.SigLIPVisionEncoder(
            patch_size=8, image_shape=(16, 16, 3), **sizes
        ),
        text_encoder=keras_hub.models.SigLIPTextEncoder(
            vocabulary_size=86, embedding_dim=24, max_sequence_length=10, projection_dim=24, **sizes
        ),
    )
    generator = np.random.default_rng(0)
    for weight in backbone.trainable_weights:
        weight.assign(weight + 0.1 * generator.standard_normal(weight.shape))
    images = generator.uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)
    tokens = generator.integers(0, 86, (3, 10)).astype(np.int32)

    def unit(x):
        return np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)

    np.savez(
        tmp_path / "io.npz", images=images, tokens=tokens,
        zimg=unit(backbone.get_vision_embeddings(images)),
        ztxt=unit(backbone.get_text_embeddings(tokens)),
    )  # fmt: skip
    backbone.save_to_preset(str(tmp_path / "preset"))
    quiet(
        tmp_path / "preset", tmp_path / "run", vocab=vocabulary("siglip"),
        check=str(tmp_path / "io.npz"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "image, text, vocab_size, side, expected",
    [
        ((768, 12, 12, 3072), (768, 12, 12, 3072), 32_000, 256 // 16 * 16, 203_202_050),
        ((1152, 27, 16, 4304), (1152, 27, 16, 4304), 32_000, 378, 877_960_498),
    ],
)
def test_parameters_of_public_models_by_arithmetic(image, text, vocab_size, side, expected):
    """Published counts less one key bias: it has no effect, and our pooling has none."""
    patch = 14 if side == 378 else 16
    towers = TowerConfig(*image), TowerConfig(*text)
    config = DualEncoderConfig(side, patch, 64, vocab_size, image[0], *towers)
    count = sum(map(math.prod, rules.our_shapes(config).values()))
    assert count == expected - image[0]


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.__name__.rpartition(".")[2])
def test_every_format_gives_back_what_it_took(kind):
    tower = TowerConfig(width=12, depth=2, heads=3, mlp_dim=20)
    text = TowerConfig(width=8, depth=1, heads=2, mlp_dim=12)
    config = DualEncoderConfig(12, 4, 5, 11, 12, tower, text)
    generator = np.random.default_rng(0)
    ours = {n: generator.normal(size=s).astype("f") for n, s in rules.our_shapes(config).items()}
    theirs = dict(rules.from_ours(kind.rules(config), ours))
    tensors = {n: Tensor(a.shape, "float32", lambda a=a: a) for n, a in theirs.items()}
    assert [f for f in FORMATS if f.is_this(tensors)] == [kind]
    measured = kind.measure(kind.views(tensors)).config((3, 2), "test")
    assert measured == config
    again = dict(rules.to_ours(kind.rules(measured), kind.views(tensors), measured, "test"))
    assert again.keys() == ours.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(again[name], value)


def test_a_trimmed_table_embeds_its_data_exactly_the_same(tmp_path):
    data = small_data(tmp_path)
    whole = imported("siglip", tmp_path)
    trimmed = imported("siglip", tmp_path / "trimmed", trim_vocab=data)
    assert trimmed.model.config.vocab_size < whole.model.config.vocab_size == 86
    captions = tf.constant(["red square", "dark green square", "blue square"])
    ztxt = [run.model.encode_text(run.tokenizer(captions)).numpy() for run in (whole, trimmed)]
    np.testing.assert_array_equal(*ztxt)


def test_all_tensors_that_differ_are_listed(tmp_path):
    folder = copied("siglip", tmp_path)
    tensors = huggingface_tensors("siglip")
    del tensors["text_model.head.weight"], tensors["vision_model.embeddings.patch_embedding.weight"]
    tensors["vision_model.encoder.layers.1.mlp.fc2.bias"] = np.zeros(25, np.float32)
    tensors["logit_bias"] = np.zeros(1, np.float64)
    tensors["vision_model.extra"] = np.zeros(1, np.float32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError) as caught:
        quiet(folder, tmp_path / "run")
    text = str(caught.value)
    assert "5 tensor(s)" in text
    assert "missing: text_model.head.weight [24, 20]" in text
    assert "missing: vision_model.embeddings.patch_embedding.weight" in text
    assert "left over: vision_model.extra [1]" in text
    assert "vision_model.encoder.layers.1.mlp.fc2.bias is [25], expected [24]" in text
    assert "logit_bias is F64" in text
    assert not (tmp_path / "run").exists()


def _truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def _terabytes(folder):
    path = folder / "model.safetensors"
    path.write_bytes((10**13).to_bytes(8, "little") + path.read_bytes()[8:])


def _huge_tensor(folder):
    header = {"logit_scale": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
    header = json.dumps(header).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(8)
    (folder / "model.safetensors").write_bytes(content)


def _pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _integers(folder):
    tensors = huggingface_tensors("siglip")
    save_file({k: v.astype(np.int32) for k, v in tensors.items()}, folder / "model.safetensors")


def _no_numbers(folder):
    tensors = huggingface_tensors("siglip")
    tensors["text_model.head.weight"] = np.full_like(tensors["text_model.head.weight"], np.nan)
    save_file(tensors, folder / "model.safetensors")


def _other_architecture(folder):
    save_file(
        {"bert.embeddings.weight": np.zeros((3, 3), np.float32)}, folder / "model.safetensors"
    )


def _clip(folder):
    tensors = huggingface_tensors("siglip")
    tensors["vision_model.embeddings.class_embedding"] = np.zeros(24, np.float32)
    save_file(tensors, folder / "model.safetensors")


def _clip_config(folder):
    (folder / "config.json").write_text('{"model_type": "clip"}')


def _quick_gelu(folder):
    _edit(folder / "config.json", lambda c: c["text_config"].update(hidden_act="quick_gelu"))


def _mean(folder):
    _edit(
        folder / "processor_config.json",
        lambda c: c["image_processor"].update(image_mean=[0.48, 0.46, 0.41]),
    )


def _side(folder):
    size = {"height": 64, "width": 64}
    _edit(folder / "processor_config.json", lambda c: c["image_processor"].update(size=size))


def _lanczos(folder):
    _edit(folder / "processor_config.json", lambda c: c["image_processor"].update(resample=1))


def _shortest_edge(folder):
    size = {"shortest_edge": 32}
    _edit(folder / "processor_config.json", lambda c: c["image_processor"].update(size=size))


def _heads(folder):
    _edit(folder / "config.json", lambda c: c["text_config"].update(num_attention_heads=3))


def _other_vocabulary(folder):
    shutil.copy(vocabulary("siglip2_shards"), folder / "spiece.model")


def _no_vocabulary(folder):
    (folder / "spiece.model").unlink()


def _broken_vocabulary(folder):
    (folder / "spiece.model").write_bytes(b"no model")


def _edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "damage, told",
    [
        (_truncate, "cut or damaged"),
        (_terabytes, "header too large"),
        (_huge_tensor, "cut or damaged"),
        (_pickle, r"pytorch_model\.bin is a pickle.*safetensors\.torch\.save_model"),
        (_integers, "dtype: .* is I32, expected float32, float16, bfloat16"),
        (_no_numbers, r"not finite \(text/projection/kernel\)"),
        (_other_architecture, "another architecture"),
        (_clip, "CLIP-like.*cached reference.*cache_reference"),
        (_clip_config, "CLIP-like.*cached reference.*cache_reference"),
        (_quick_gelu, "quick_gelu"),
        (_mean, "normalised by mean"),
        (_side, "pictures of 64 px do not fit 3 patches of 10 px"),
        (_lanczos, "resized by 'resample 1'"),
        (_shortest_edge, "expected a square"),
        (_heads, "not divisible by model.text.heads = 3"),
        (_other_vocabulary, "460 tokens, and the model's table 86 rows"),
        (_no_vocabulary, "--vocab=FILE"),
        (_broken_vocabulary, "SentencePiece"),
    ],
)
def test_bad_input_is_one_message_and_nothing_written(damage, told, tmp_path):
    folder = copied("siglip", tmp_path)
    damage(folder)
    with pytest.raises(UserError, match=told):
        quiet(folder, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["siglip"]


ODD = (None, "x", -1, 1.5, True, [[]], {"a": 1}, float("nan"))


def _places(content, place=()):
    """The path of each field of a JSON object; of many alike (a weight_map) the first two."""
    if isinstance(content, dict):
        for name in list(content)[: 2 if place == ("weight_map",) else None]:
            yield (*place, name)
            yield from _places(content[name], (*place, name))


@pytest.mark.parametrize("name", ["siglip", "siglip2_shards", "naflex", "open_clip"])
def test_a_field_of_another_type_beside_the_weights_is_one_message(name, tmp_path):
    folder = copied(name, tmp_path)
    for path in sorted(folder.glob("*.json")):
        sound = path.read_text()
        for *parents, field in _places(json.loads(sound)):
            for value in ODD:
                content = json.loads(sound)
                at = content
                for parent in parents:
                    at = at[parent]
                at[field] = value
                path.write_text(json.dumps(content))
                with contextlib.suppress(UserError):  # anything else fails the test
                    found = open_source(str(folder))
                    heads = found.hints.heads or (1, 1)
                    assert all(type(n) is int for n in heads), (path.name, field, value)
        path.write_text(sound)


@pytest.mark.parametrize(
    "name, file, change, told",
    [
        ("siglip", "config.json", {"model_type": 3}, "config.json: model_type is 3; expected a t"),
        ("siglip", "config.json", {"text_config": "x"}, 'text_config is "x"; expected an object'),
        (
            "siglip", "config.json", {"text_config": {"layer_norm_eps": float("nan")}},
            "config.json, text_config has .* layer_norm_eps nan",
        ),
        (
            "siglip2_shards", "model.safetensors.index.json", {"weight_map": {"logit_bias": None}},
            "index.json, weight_map: logit_bias is null; expected a text",
        ),
    ],
)  # fmt: skip
def test_the_message_names_file_and_field(name, file, change, told, tmp_path):
    folder = copied(name, tmp_path)
    _edit(folder / file, lambda content: content.update(change))
    with pytest.raises(UserError, match=told):
        open_source(str(folder))


def test_a_pickled_array_in_an_npz_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", **{"img/pos_embedding": np.array([{}], object)})
    with pytest.raises(UserError, match="no pickle is read"):
        quiet(tmp_path / "x.npz", tmp_path / "run")


def test_a_damaged_or_compressed_npz(blocks, tmp_path):
    np.savez(tmp_path / "x.npz", **blocks)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[5000] ^= 1
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(UserError, match="cut or damaged"):
        quiet(tmp_path / "bad.npz", tmp_path / "run", vocab=vocabulary("siglip"))
    (tmp_path / "cut.npz").write_bytes(content[:-100])
    with pytest.raises(UserError, match="cut or damaged"):
        quiet(tmp_path / "cut.npz", tmp_path / "run", vocab=vocabulary("siglip"))
    np.savez_compressed(tmp_path / "small.npz", **blocks)
    check = str(GOLDEN / "siglip" / "io.npz")
    quiet(tmp_path / "small.npz", tmp_path / "run", vocab=vocabulary("siglip"), check=check)


def test_a_workdir_that_exists_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="there already"):
        quiet(GOLDEN / "siglip", tmp_path / "run")


@pytest.mark.parametrize(
    "change, told",
    [
        ({"zimg": np.ones((3, 24))}, "differs from"),
        ({"tokens": None, "images": None}, "Expected a plain .npz"),
        ({"images": np.zeros((3, 7, 7, 3))}, "7 x 7|Expected a plain"),
        ({"ztxt": np.zeros((3, 5))}, "Expected a plain"),
    ],
)
def test_check_fails_where_embeddings_differ(change, told, tmp_path):
    io = {k: v for k, v in (stored("siglip") | change).items() if v is not None}
    np.savez(tmp_path / "io.npz", **io)
    with pytest.raises(UserError, match=told):
        imported("siglip", tmp_path, check=str(tmp_path / "io.npz"))
    assert not (tmp_path / "siglip-run").exists()


def test_float16_is_read(tmp_path):
    folder = copied("siglip", tmp_path)
    tensors = huggingface_tensors("siglip")
    save_file({k: v.astype(np.float16) for k, v in tensors.items()}, folder / "model.safetensors")
    quiet(folder, tmp_path / "run")
    stored_bias = load_workdir(str(tmp_path / "run")).model.image_tower.norm.beta
    expected = tensors["vision_model.post_layernorm.bias"].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(stored_bias, expected)
