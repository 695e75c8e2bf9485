"""SiglipModel of Hugging Face's transformers, SigLIP 2 included: model.safetensors."""

import functools
import math
from collections.abc import Iterable

import numpy as np

from jest_tf.models.dual_encoder import DualEncoderConfig, TowerConfig
from jest_tf.models.weights.rules import (
    Rule,
    Sizes,
    axis,
    depth,
    mlp,
    norm,
    reshaped,
    same,
    thirds,
    torch_dense,
    transposed,
)
from jest_tf.models.weights.tensors import Tensors

DESCRIPTION = "Hugging Face SiglipModel (config.json, model.safetensors)"
PATCHES = "vision_model.embeddings.patch_embedding.weight"
HEAD = "vision_model.head"
_mlp = functools.partial(mlp, up=".fc1", down=".fc2", dense=torch_dense)


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


def measure(tensors: Tensors) -> Sizes:
    """Sizes by the tensors; the heads stand in config.json."""

    def tower(name: str) -> tuple[int, int, int]:
        return (
            axis(tensors, rf"{name}\..*norm\d?\.(weight|bias)", 0),
            depth(tensors, rf"{name}\.encoder\.layers\.(\d+)\..*"),
            axis(tensors, rf"{name}\..*\.mlp\.fc1\.(weight|bias)", 0),
        )

    image, text = tower("vision_model"), tower("text_model")
    return Sizes(
        patch=axis(tensors, PATCHES, 2),
        places=axis(tensors, r"vision_model\.embeddings\.position_embedding\.weight", 0),
        image=image,
        text=text,
        n_tokens=axis(tensors, r"text_model\.embeddings\.position_embedding\.weight", 0),
        vocab_size=axis(tensors, r"text_model\.embeddings\.token_embedding\.weight", 0),
        embed_dim=image[0],
    )


def rules(c: DualEncoderConfig) -> list[Rule]:
    vision, text = "vision_model.embeddings", "text_model.embeddings"
    grid, width = c.image_size // c.patch_size, c.image.width
    return [
        transposed("image/embedding/kernel", PATCHES, (2, 3, 1, 0)),
        same("image/embedding/bias", f"{vision}.patch_embedding.bias"),
        reshaped(
            "image/embedding/positions", f"{vision}.position_embedding.weight",
            (grid, grid, width), (grid * grid, width),
        ),
        *_encoder("image", "vision_model", c.image),
        *norm("image/norm", "vision_model.post_layernorm"),
        reshaped("image/pooling/probe", f"{HEAD}.probe", (1, width), (1, 1, width)),
        *_pooled_attention(),
        *torch_dense("image/pooling/out", f"{HEAD}.attention.out_proj"),
        *norm("image/pooling/norm", f"{HEAD}.layernorm"),
        *_mlp("image/pooling/mlp", f"{HEAD}.mlp"),
        same("text/token_embedding", f"{text}.token_embedding.weight"),
        same("text/positions", f"{text}.position_embedding.weight"),
        *_encoder("text", "text_model", c.text),
        *norm("text/norm", "text_model.final_layer_norm"),
        *torch_dense("text/projection", "text_model.head"),
        reshaped("log_scale", "logit_scale", (), (1,)),
        reshaped("bias", "logit_bias", (), (1,)),
    ]  # fmt: skip


def _encoder(ours: str, theirs: str, tower: TowerConfig) -> list[Rule]:
    found = []
    for k in range(tower.depth):
        block, layer = f"{ours}/block_{k}", f"{theirs}.encoder.layers.{k}"
        attention = f"{layer}.self_attn"
        found += norm(f"{block}/norm_attention", f"{layer}.layer_norm1")
        found += [
            Rule(
                (f"{block}/attention/qkv_kernel",),
                tuple(f"{attention}.{part}_proj.weight" for part in "qkv"),
                lambda *a: (np.concatenate([x.T for x in a], axis=1),),
                lambda a: [x.T for x in thirds(a)],
            ),
            Rule(
                (f"{block}/attention/qkv_bias",),
                tuple(f"{attention}.{part}_proj.bias" for part in "qkv"),
                lambda *a: (np.concatenate(a),),
                thirds,
            ),
        ]
        found += torch_dense(f"{block}/attention/out", f"{attention}.out_proj")
        found += norm(f"{block}/norm_mlp", f"{layer}.layer_norm2")
        found += _mlp(f"{block}/mlp", f"{layer}.mlp")
    return found


def _pooled_attention() -> list[Rule]:
    """in_proj holds query, key and value in its rows; the key's bias has no effect."""
    kernels = tuple(f"image/pooling/{part}_kernel" for part in ("query", "key", "value"))
    biases = ("image/pooling/query_bias", "image/pooling/value_bias")
    return [
        Rule(
            kernels,
            (f"{HEAD}.attention.in_proj_weight",),
            lambda w: [x.T for x in np.split(w, 3)],
            lambda *a: (np.concatenate([x.T for x in a]),),
        ),
        Rule(
            biases,
            (f"{HEAD}.attention.in_proj_bias",),
            lambda b: thirds(b)[::2],
            lambda q, v: (np.concatenate([q, np.zeros_like(q), v]),),
        ),
    ]
