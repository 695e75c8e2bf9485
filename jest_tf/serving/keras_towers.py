"""Both towers as one functional model of Keras's own layers, which any Keras 3 loads.

model = keras.models.load_model("towers.keras")
zimg = model.get_layer("image_tower")(pixels)     # float32 [n, S, S, 3] in [-1, 1] -> [n, d]
ztxt = model.get_layer("text_tower")(tokens)      # int32 [n, L] -> [n, d], unit norm
out = model([pixels, tokens])                     # zimg, ztxt, logits [n_images, n_texts]
"""

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers, ops

from jest_tf.models.dual_encoder import DualEncoderConfig, TowerConfig

EPSILON = 1e-6


def towers(
    config: DualEncoderConfig, weights: Mapping[str, np.ndarray], margin: int = 0
) -> keras.Model:
    """The model with our variables' values; `margin`: pixels that no patch covers."""
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
        x = self.pooled_attention(c.image)(probe, x)
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
            x = x + self.self_attention(f"{block}/attention", tower)(y, y)
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

    def self_attention(self, name: str, tower: TowerConfig) -> keras.Layer:
        kernels = np.split(self.weights[f"{name}/qkv_kernel"], 3, axis=1)
        biases = np.split(self.weights[f"{name}/qkv_bias"], 3)
        return self.attention(name, tower, kernels, biases)

    def pooled_attention(self, tower: TowerConfig) -> keras.Layer:
        name = "image/pooling"
        kernels = [self.weights[f"{name}/{part}_kernel"] for part in ("query", "key", "value")]
        q, v = (self.weights[f"{name}/{part}_bias"] for part in ("query", "value"))
        return self.attention(name, tower, kernels, [q, np.zeros_like(q), v])

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
