"""SigLIPBackbone of keras-hub: model.weights.h5 of a preset, or `save_weights`."""

import functools
import re
from collections.abc import Iterable

from jest_tf.models.dual_encoder import DualEncoderConfig, TowerConfig
from jest_tf.models.weights import rules as r
from jest_tf.models.weights.tensors import Tensors

DESCRIPTION = "keras-hub SigLIPBackbone (model.weights.h5)"
TOWERS = {"image": "sig_lip_vision_encoder", "text": "sig_lip_text_encoder"}
NAMES = {
    part: (f"/{name}_dense/vars/0", f"/{name}_dense/vars/1")
    for part, name in (("query", "query"), ("key", "key"), ("value", "value"), ("out", "output"))
}
VARS = ("/vars/0", "/vars/1")
_dense = functools.partial(r.plain_dense, names=VARS)
_mlp = functools.partial(r.mlp, up="/fc1", down="/fc2", dense=_dense)
BLOCK = r"sig_lip_encoder_layer(?:_(\d+))?"


def is_this(names: Iterable[str]) -> bool:
    return any("sig_lip_" in name for name in names)


def views(tensors: Tensors) -> Tensors:
    """Without the index buffers and what `Model.save_weights` keeps of an optimizer."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not re.fullmatch(r".*sig_lip_(text|vision)_embedding/vars/\d|optimizer/.*", name)
    }


def measure(tensors: Tensors) -> r.Sizes:
    """Sizes by the tensors, the heads too: attention kernels are (D, heads, D / heads)."""

    def tower(name: str) -> tuple[int, int, int]:
        return (
            r.axis(tensors, rf"layers/{name}/.*layer_norm\w*/vars/\d", 0),
            r.depth(tensors, rf"layers/{name}/layers/{BLOCK}/.*"),
            r.axis(tensors, rf"layers/{name}/.*/mlp/fc1/vars/\d", -1),
        )

    def heads(name: str) -> int:
        return r.axis(tensors, rf"layers/{name}/.*/(query|key|value)_dense/vars/\d", -2)

    image, text = (tower(name) for name in TOWERS.values())
    return r.Sizes(
        patch=r.axis(tensors, r".*/patch_embedding/vars/0", 0),
        places=r.axis(tensors, r".*vision_embedding/position_embedding/vars/0", 0),
        image=image,
        text=text,
        n_tokens=r.axis(tensors, r".*text_embedding/position_embedding/vars/0", 0),
        vocab_size=r.axis(tensors, r".*/token_embedding/vars/0", 0),
        embed_dim=image[0],
        heads=(heads(TOWERS["image"]), heads(TOWERS["text"])),
    )


def rules(c: DualEncoderConfig) -> list[r.Rule]:
    image, text = (f"layers/{name}/layers" for name in TOWERS.values())
    places, width = (c.image_size // c.patch_size) ** 2, c.image.width
    pooling = f"{image}/sig_lip_multi_head_attention_pooling"
    pixels, words = f"{image}/sig_lip_vision_embedding", f"{text}/sig_lip_text_embedding"
    return [
        *_dense("image/embedding", f"{pixels}/patch_embedding"),
        r.same(
            "image/embedding/positions", f"{pixels}/position_embedding/vars/0",
            shape=(places, width),
        ),
        *_encoder("image", image, c.image),
        r.same("image/pooling/probe", f"{pooling}/vars/0", shape=(1, 1, width)),
        *r.per_head_pooling(f"{pooling}/attention", width, c.image.heads, NAMES),
        *r.norm("image/pooling/norm", f"{pooling}/layer_norm", *VARS, sep=""),
        *_mlp("image/pooling/mlp", f"{pooling}/mlp"),
        r.same("text/token_embedding", f"{words}/token_embedding/vars/0"),
        r.same("text/positions", f"{words}/position_embedding/vars/0"),
        *_encoder("text", text, c.text),
        *_dense("text/projection", f"{text}/dense"),
        r.same("log_scale", "layers/sig_lip_head/vars/0"),
        r.same("bias", "layers/sig_lip_head/vars/1"),
    ]  # fmt: skip


def _encoder(ours: str, theirs: str, tower: TowerConfig) -> list[r.Rule]:
    found = r.norm(f"{ours}/norm", f"{theirs}/layer_normalization", *VARS, sep="")
    for k in range(tower.depth):
        block = f"{ours}/block_{k}"
        layer = f"{theirs}/sig_lip_encoder_layer" + (f"_{k}" if k else "")
        found += r.norm(f"{block}/norm_attention", f"{layer}/layer_norm1", *VARS, sep="")
        found += r.per_head_attention(
            f"{block}/attention", f"{layer}/self_attn", tower.width, tower.heads, NAMES
        )
        found += r.norm(f"{block}/norm_mlp", f"{layer}/layer_norm2", *VARS, sep="")
        found += _mlp(f"{block}/mlp", f"{layer}/mlp")
    return found
