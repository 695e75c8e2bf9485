"""A model in formats of other libraries: Hugging Face's transformers, big_vision, Keras.

The weights are ours, renamed and reshaped (models/weights); a key bias that ours lack is written as
zeros. A trimmed token table is written whole again: rows that were cut hold the unknown token's, so
that the family's own tokenizer gives the embeddings that ours gives.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from safetensors.numpy import save_file

from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError
from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig, TowerConfig
from jest_tf.models.weights import big_vision, huggingface, rules
from jest_tf.serving.transformers_tokenizer import write_tokenizer

EPSILON = 1e-6


def towers(
    config: DualEncoderConfig, weights: Mapping[str, np.ndarray], margin: int = 0
) -> keras.Model:
    """Our variables in one functional model of Keras's own layers, which any Keras 3 loads.

    model = keras.models.load_model("towers.keras")
    zimg = model.get_layer("image_tower")(pixels)  # float32 [n, S, S, 3] in [-1, 1] -> [n, d]
    ztxt = model.get_layer("text_tower")(tokens)   # int32 [n, L] -> [n, d], unit norm
    out = model([pixels, tokens])                  # zimg, ztxt, logits [n_images, n_texts]

    margin: pixels that no patch covers.
    """
    side = config.image_size + margin
    images = keras.Input((side, side, 3), name="images")
    tokens = keras.Input((config.n_tokens,), dtype="int32", name="tokens")
    builder = _Builder(weights)
    image_tower = builder.image_tower(config, side)
    text_tower = builder.text_tower(config)
    zimg, ztxt = image_tower(images), text_tower(tokens)
    # A dense layer of one unit holds scale and bias as weights.
    scaled = layers.Dense(1, name="scale_and_bias")
    logits = scaled(ops.expand_dims(ops.matmul(zimg, ops.transpose(ztxt)), -1))
    scaled.set_weights([np.exp(weights["log_scale"]).reshape(1, 1), weights["bias"].reshape(1)])
    outputs = {"zimg": zimg, "ztxt": ztxt, "logits": ops.squeeze(logits, -1)}
    return keras.Model([images, tokens], outputs, name="dual_encoder")


class _Builder:
    """Layers that take their values from our variables, by the name of the part."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.weights = weights

    def image_tower(self, c: DualEncoderConfig, side: int) -> keras.Model:
        pixels = keras.Input((side, side, 3))
        w, width = self.weights, c.image.width
        patches = layers.Conv2D(width, c.patch_size, strides=c.patch_size, name="patches")
        x = layers.Reshape((-1, width))(patches(pixels))
        patches.set_weights([w["image/embedding/kernel"], w["image/embedding/bias"]])
        places = _places(x[..., 0])
        positions = w["image/embedding/positions"].reshape(-1, width)
        x = x + self.lookup("image_positions", positions, places)
        x = self.encoder("image", c.image, x)
        probe = self.lookup("probe", w["image/pooling/probe"], places[:, :1])
        kernels = [w[f"image/pooling/{part}_kernel"] for part in ("query", "key", "value")]
        q, v = (w[f"image/pooling/{part}_bias"] for part in ("query", "value"))
        biases = [q, np.zeros_like(q), v]
        x = self.attention("image/pooling", c.image, kernels, biases)(probe, x)
        x = x + self.mlp("image/pooling", "norm", c.image, x)
        return keras.Model(
            pixels, layers.UnitNormalization(axis=-1)(ops.squeeze(x, 1)), name="image_tower"
        )

    def text_tower(self, c: DualEncoderConfig) -> keras.Model:
        tokens = keras.Input((c.n_tokens,), dtype="int32")
        x = self.lookup("tokens", self.weights["text/token_embedding"], tokens)
        x = x + self.lookup("text_positions", self.weights["text/positions"], _places(tokens))
        x = self.encoder("text", c.text, x)[:, -1]
        x = self.dense("text/projection", c.embed_dim)(x)
        return keras.Model(tokens, layers.UnitNormalization(axis=-1)(x), name="text_tower")

    def encoder(self, name: str, tower: TowerConfig, x):
        for k in range(tower.depth):
            block = f"{name}/block_{k}"
            y = self.norm(f"{block}/norm_attention")(x)
            qkv = f"{block}/attention/qkv"
            kernels = np.split(self.weights[f"{qkv}_kernel"], 3, axis=1)
            biases = np.split(self.weights[f"{qkv}_bias"], 3)
            x = x + self.attention(f"{block}/attention", tower, kernels, biases)(y, y)
            x = x + self.mlp(block, "norm_mlp", tower, x)
        return self.norm(f"{name}/norm")(x)

    def mlp(self, name: str, norm: str, tower: TowerConfig, x):
        up = self.dense(f"{name}/mlp/up", tower.mlp_dim)(self.norm(f"{name}/{norm}")(x))
        return self.dense(f"{name}/mlp/down", tower.width)(ops.gelu(up, approximate=True))

    def lookup(self, name: str, table: np.ndarray, ids):
        return self.filled(layers.Embedding(*table.shape, name=name), ids.shape, [table])(ids)

    def norm(self, name: str) -> keras.Layer:
        values = [self.weights[f"{name}/gamma"], self.weights[f"{name}/beta"]]
        layer = layers.LayerNormalization(epsilon=EPSILON, name=name.replace("/", "_"))
        return self.filled(layer, (None, len(values[0])), values)

    def dense(self, name: str, units: int) -> keras.Layer:
        values = [self.weights[f"{name}/kernel"], self.weights[f"{name}/bias"]]
        layer = layers.Dense(units, name=name.replace("/", "_"))
        return self.filled(layer, (None, len(values[0])), values)

    def attention(self, name: str, tower: TowerConfig, kernels, biases) -> keras.Layer:
        size = tower.width // tower.heads
        by_head = (tower.width, tower.heads, size)
        values = []
        for kernel, bias in zip(kernels, biases, strict=True):
            values += [kernel.reshape(by_head), bias.reshape(by_head[1:])]
        out = self.weights[f"{name}/out/kernel"].reshape(*by_head[1:], tower.width)
        values += [out, self.weights[f"{name}/out/bias"]]
        layer = layers.MultiHeadAttention(tower.heads, size, name=f"{name.replace('/', '_')}")
        shape = (None, None, tower.width)
        layer.build(shape, shape)
        layer.set_weights(values)
        return layer

    def filled(self, layer: keras.Layer, shape, values) -> keras.Layer:
        layer.build(shape)
        layer.set_weights(values)
        return layer


def _places(like):
    """0, 1, 2, … along the last axis of a tensor [n, L], as int32."""
    ones = ops.cast(ops.ones_like(like), "int32")
    return ops.cumsum(ones, axis=-1) - 1


TABLE = "text/token_embedding"
RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers


@dataclasses.dataclass(frozen=True)
class PublicModel:
    """What is written: the sizes, our variables by name, and how text and pictures are read."""

    config: DualEncoderConfig
    weights: dict[str, np.ndarray]
    tokenizer: Tokenizer
    model: DualEncoder
    dtype: str = "float32"  # of the weights on the disk, where the format has a choice

    @classmethod
    def of(cls, model: DualEncoder, tokenizer: Tokenizer, dtype: str = "float32") -> "PublicModel":
        """The model as it is now; UserError: a weight is not finite, or too large for `dtype`."""
        weights = {
            variable.path.partition("/")[2]: keras.ops.convert_to_numpy(variable).astype("float32")
            for variable in model.variables
        }
        for name, value in weights.items():
            if not np.isfinite(value).all():
                raise UserError(f"weight {name} is not finite: export an earlier checkpoint")
            if np.abs(value).max() > np.finfo(dtype).max:
                raise UserError(f"weight {name} is too large for {dtype}: export float32")
        config = model.config
        if tokenizer.rule.kept_ids:
            weights[TABLE] = weights[TABLE][tokenizer.rows]
            config = dataclasses.replace(config, vocab_size=len(tokenizer.rows))
        return cls(config, weights, tokenizer, model, dtype)


def write_huggingface(public: PublicModel, folder: Path) -> list[str]:
    """A folder that SiglipModel.from_pretrained and AutoProcessor load; returns remarks."""
    folder.mkdir()
    named = rules.from_ours(huggingface.rules(public.config), public.weights)
    tensors = {name: value.astype(public.dtype) for name, value in named}
    pixels = public.model.pixels
    side = public.config.image_size + pixels.margin
    _write_json(folder / "config.json", _huggingface_config(public, side))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    # The library leaves it to its owner alone; others may read the rest of an export.
    shutil.copymode(folder / "config.json", folder / "model.safetensors")
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": "SiglipProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": side, "width": side},
            "resample": RESAMPLE[pixels.resize],
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    )
    write_tokenizer(public.tokenizer, folder)
    if pixels.antialias:
        return []
    return ["transformers resizes with antialias and this model was trained without: small pixels"]


def _huggingface_config(public: PublicModel, side: int) -> dict[str, Any]:
    c, tokenizer = public.config, public.tokenizer

    def tower(t: TowerConfig) -> dict[str, Any]:
        return {
            "hidden_size": t.width,
            "intermediate_size": t.mlp_dim,
            "num_hidden_layers": t.depth,
            "num_attention_heads": t.heads,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "attention_dropout": 0.0,
        }

    vision = {"model_type": "siglip_vision_model", "image_size": side, "patch_size": c.patch_size}
    text = {
        "model_type": "siglip_text_model",
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.n_tokens,
        "projection_size": c.embed_dim,
        "pad_token_id": tokenizer.rule.pad_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.end_id,
    }
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "torch_dtype": public.dtype,
        "initializer_factor": 1.0,
        "vision_config": tower(c.image) | vision | {"num_channels": 3, "vision_use_head": True},
        "text_config": tower(c.text) | text,
    }


def write_big_vision(public: PublicModel, path: Path) -> list[str]:
    """One .npz as SigLIP's, blocks one by one below `params/`."""
    tensors = rules.from_ours(big_vision.rules(public.config), public.weights)
    with open(path, "wb") as file:
        np.savez(file, **{f"{big_vision.PARAMS}{name}": value for name, value in tensors})
    pixels = public.model.pixels
    return [
        f"an .npz holds weights alone: pictures of {public.config.image_size + pixels.margin} px, "
        f"{pixels}; tokens of {Path(public.tokenizer.vocab_path).name}, padded with "
        f"{public.tokenizer.rule.pad_id}, {str(public.tokenizer.rule) or 'plain'}"
    ]


def write_keras(public: PublicModel, path: Path) -> list[str]:
    """A .keras file of the towers, of Keras's own layers."""
    towers(public.config, public.weights, public.model.pixels.margin).save(path)
    return ["the .keras file takes pixels in [-1, 1] and token ids; it holds no tokenizer"]


WRITERS: dict[str, tuple[str, Callable[[PublicModel, Path], list[str]]]] = {
    # --format -> what a workdir's own export of it is called, and how it is written
    "huggingface": ("export_huggingface", write_huggingface),
    "big_vision": ("export_big_vision.npz", write_big_vision),
    "keras": ("export_towers.keras", write_keras),
}


def export_public(
    model: DualEncoder, tokenizer: Tokenizer, kind: str, out: str, dtype: str = "float32"
) -> list[str]:
    """Writes `out`, all or nothing; returns remarks about what the format cannot hold.

    UserError: `out` is there, has another ending than the format, or the model does not fit.
    """
    default, writer = WRITERS[kind]
    path, ending = Path(out), Path(default).suffix
    if path.exists() or path.is_symlink():
        raise UserError(f"--out={out} is there already: remove it, or give another --out")
    if ending and path.suffix != ending:
        raise UserError(f"--out={out}: --format={kind} writes a file that ends on {ending}")
    public = PublicModel.of(model, tokenizer, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.incomplete{ending}")
    _remove(aside)
    try:
        remarks = writer(public, aside)
        aside.rename(path)
    finally:
        _remove(aside)
    return remarks


def interpolate(model: DualEncoder, start: DualEncoder, share: float) -> None:
    """Sets the weights to (1 - share)·start + share·model: WiSE-FT (arXiv 2109.01903)."""
    pairs = list(zip(model.variables, start.variables, strict=False))
    if len(model.variables) != len(start.variables) or any(a.shape != b.shape for a, b in pairs):
        raise UserError(
            f"--with names a model of other sizes: {start.config}; the run has {model.config}"
        )
    for variable, first in pairs:
        variable.assign((1 - share) * first.numpy() + share * variable.numpy())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
