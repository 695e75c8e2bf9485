"""SiglipModel of Hugging Face's transformers, SigLIP 2 included: model.safetensors."""

import functools
import math
from collections.abc import Iterable

import numpy as np

from jest_tf.models.dual_encoder import DualEncoderConfig, TowerConfig
from jest_tf.models.weights import rules as r
from jest_tf.models.weights.tensors import Tensors

DESCRIPTION = "Hugging Face SiglipModel (config.json, model.safetensors)"
PATCHES = "vision_model.embeddings.patch_embedding.weight"
HEAD = "vision_model.head"
_mlp = functools.partial(r.mlp, up=".fc1", down=".fc2", dense=r.torch_dense)


def is_this(names: Iterable[str]) -> bool:
    return any(name.startswith(("vision_model.", "text_model.")) for name in names)


def views(tensors: Tensors) -> Tensors:
    """Without the index buffers of old files; NaFlex's dense patch kernel as a convolution."""
    found = {k: v for k, v in tensors.items() if not k.endswith("position_ids")}
    kernel = found.get(PATCHES)
    if kernel and len(kernel.shape) == 2:  # [D, p·p·3], pixels in the order row, column, channel
        p = math.isqrt(kernel.shape[1] // 3)
        if 3 * p * p == kernel.shape[1]:
            found[PATCHES] = kernel.map(lambda a: a.reshape(-1, p, p, 3).transpose(0, 3, 1, 2))
    return found


def measure(tensors: Tensors) -> r.Sizes:
    """Sizes by the tensors; the heads stand in config.json."""

    def tower(name: str) -> tuple[int, int, int]:
        return (
            r.axis(tensors, rf"{name}\..*norm\d?\.(weight|bias)", 0),
            r.depth(tensors, rf"{name}\.encoder\.layers\.(\d+)\..*"),
            r.axis(tensors, rf"{name}\..*\.mlp\.fc1\.(weight|bias)", 0),
        )

    image, text = tower("vision_model"), tower("text_model")
    return r.Sizes(
        patch=r.axis(tensors, PATCHES, 2),
        places=r.axis(tensors, r"vision_model\.embeddings\.position_embedding\.weight", 0),
        image=image,
        text=text,
        n_tokens=r.axis(tensors, r"text_model\.embeddings\.position_embedding\.weight", 0),
        vocab_size=r.axis(tensors, r"text_model\.embeddings\.token_embedding\.weight", 0),
        embed_dim=image[0],
    )


def rules(c: DualEncoderConfig) -> list[r.Rule]:
    vision, text = "vision_model.embeddings", "text_model.embeddings"
    places, width = (c.image_size // c.patch_size) ** 2, c.image.width
    return [
        r.same("image/embedding/kernel", PATCHES, axes=(2, 3, 1, 0)),
        r.same("image/embedding/bias", f"{vision}.patch_embedding.bias"),
        r.same(
            "image/embedding/positions", f"{vision}.position_embedding.weight",
            shape=(places, width),
        ),
        *_encoder("image", "vision_model", c.image),
        *r.norm("image/norm", "vision_model.post_layernorm"),
        r.same("image/pooling/probe", f"{HEAD}.probe", shape=(1, 1, width)),
        *_pooled_attention(),
        *r.torch_dense("image/pooling/out", f"{HEAD}.attention.out_proj"),
        *r.norm("image/pooling/norm", f"{HEAD}.layernorm"),
        *_mlp("image/pooling/mlp", f"{HEAD}.mlp"),
        r.same("text/token_embedding", f"{text}.token_embedding.weight"),
        r.same("text/positions", f"{text}.position_embedding.weight"),
        *_encoder("text", "text_model", c.text),
        *r.norm("text/norm", "text_model.final_layer_norm"),
        *r.torch_dense("text/projection", "text_model.head"),
        r.same("log_scale", "logit_scale", shape=(1,)),
        r.same("bias", "logit_bias", shape=(1,)),
    ]  # fmt: skip


def _encoder(ours: str, theirs: str, tower: TowerConfig) -> list[r.Rule]:
    found = []
    for k in range(tower.depth):
        block, layer = f"{ours}/block_{k}", f"{theirs}.encoder.layers.{k}"
        attention = f"{layer}.self_attn"
        found += r.norm(f"{block}/norm_attention", f"{layer}.layer_norm1")
        kernels = [f"{attention}.{part}_proj.weight" for part in "qkv"]
        biases = [f"{attention}.{part}_proj.bias" for part in "qkv"]
        found.append(r.same(f"{block}/attention/qkv_kernel", *kernels, axes=(1, 0)))
        found.append(r.same(f"{block}/attention/qkv_bias", *biases))
        found += r.torch_dense(f"{block}/attention/out", f"{attention}.out_proj")
        found += r.norm(f"{block}/norm_mlp", f"{layer}.layer_norm2")
        found += _mlp(f"{block}/mlp", f"{layer}.mlp")
    return found


def _pooled_attention() -> list[r.Rule]:
    """in_proj holds query, key and value in its rows; the key's bias has no effect."""
    kernels = [f"image/pooling/{part}_kernel" for part in ("query", "key", "value")]
    biases = ("image/pooling/query_bias", "image/pooling/value_bias")
    return [
        r.rows_of(kernels, f"{HEAD}.attention.in_proj_weight"),
        r.Rule(
            biases,
            (f"{HEAD}.attention.in_proj_bias",),
            lambda _, b: np.split(b, 3)[::2],
            lambda q, v: (np.concatenate([q, np.zeros_like(q), v]),),
        ),
    ]
