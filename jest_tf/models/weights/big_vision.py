"""Google's big_vision: one .npz, blocks one by one (SigLIP) or stacked (SigLIP 2)."""

import functools
import re
from collections.abc import Iterable

import numpy as np

from jest_tf.models.dual_encoder import DualEncoderConfig, TowerConfig
from jest_tf.models.weights import rules as r
from jest_tf.models.weights.tensors import Tensor, Tensors

DESCRIPTION = "big_vision .npz"
PARAMS = "params/"
MHA = "MultiHeadDotProductAttention_0"
NAMES = {
    part: (f"/{name}/kernel", f"/{name}/bias")
    for part, name in (("query", "query"), ("key", "key"), ("value", "value"), ("out", "out"))
}
DENSE = ("/kernel", "/bias")
_dense = functools.partial(r.plain_dense, names=DENSE)
_mlp = functools.partial(r.mlp, up="/Dense_0", down="/Dense_1", dense=_dense)
OLD_POSITIONS = "txt/Encoder_0/pos_embedding"


def is_this(names: Iterable[str]) -> bool:
    return any(name.removeprefix(PARAMS).startswith(("img/", "txt/")) for name in names)


def views(tensors: Tensors) -> Tensors:
    """Without `params/` and optimizer state; blocks apart; both position tables of old files added.

    Models without a text head get the identity, which is what they compute.
    """
    if any(name.startswith(PARAMS) for name in tensors):
        tensors = {k.removeprefix(PARAMS): v for k, v in tensors.items() if k.startswith(PARAMS)}
    found: Tensors = {}
    for name, tensor in tensors.items():
        stacked = re.fullmatch(r"(.*/encoderblock)/(.*)", name)
        if not stacked or not tensor.shape:
            found[name] = tensor
            continue
        for k in range(tensor.shape[0]):
            found[f"{stacked[1]}_{k}/{stacked[2]}"] = tensor.map(lambda a, k=k: a[k])
    old = found.pop(OLD_POSITIONS, None)
    if old:
        own = found.get("txt/pos_embedding")
        total = (lambda: own.floats() + old.floats()) if own else old.floats
        found["txt/pos_embedding"] = Tensor(old.shape, "float32", total)
    if not any(name.startswith("txt/head") for name in found):
        width = r.axis(found, "txt/Encoder_0/encoder_norm/(scale|bias)", 0)
        eye = lambda: np.eye(width, dtype=np.float32)  # noqa: E731
        found["txt/head/kernel"] = Tensor((width, width), "float32", eye)
        zeros = lambda: np.zeros(width, np.float32)  # noqa: E731
        found["txt/head/bias"] = Tensor((width,), "float32", zeros)
    kernel = found.get("img/embedding/kernel")
    if kernel and len(kernel.shape) == 2:  # NaFlex: pixels in the order row, column, channel
        p = round((kernel.shape[0] / 3) ** 0.5)
        if 3 * p * p == kernel.shape[0]:
            found["img/embedding/kernel"] = kernel.map(lambda a: a.reshape(p, p, 3, -1))
        places = found.get("img/pos_embedding")
        if places and len(places.shape) == 3 and places.shape[0] > 1:  # (16, 16, D)
            found["img/pos_embedding"] = places.map(lambda a: a.reshape(1, -1, a.shape[-1]))
    return found


def measure(tensors: Tensors) -> r.Sizes:
    """Sizes by the tensors, the heads too: attention kernels are (D, heads, D / heads)."""

    def tower(encoder: str) -> tuple[int, int, int]:
        return (
            r.axis(tensors, rf"{encoder}/.*(norm|LayerNorm_\d)/(scale|bias)", 0),
            r.depth(tensors, rf"{encoder}/encoderblock_(\d+)/.*"),
            r.axis(tensors, rf"{encoder}/.*/Dense_0/(kernel|bias)", -1),
        )

    def heads(encoder: str) -> int:
        return r.axis(tensors, rf"{encoder}/.*/{MHA}/(query|key|value)/(kernel|bias)", -2)

    image, text = tower("img/Transformer"), tower("txt/Encoder_0")
    return r.Sizes(
        patch=r.axis(tensors, "img/embedding/kernel", 0),
        places=r.axis(tensors, "img/pos_embedding", 1),
        image=image,
        text=text,
        n_tokens=r.axis(tensors, "txt/pos_embedding", 1),
        vocab_size=r.axis(tensors, "txt/Embed_0/embedding", 0),
        embed_dim=image[0],
        heads=(heads("img/Transformer"), heads("txt/Encoder_0")),
    )


def rules(c: DualEncoderConfig) -> list[r.Rule]:
    places, width, head = (c.image_size // c.patch_size) ** 2, c.image.width, "img/MAPHead_0"
    return [
        *_dense("image/embedding", "img/embedding"),
        r.same("image/embedding/positions", "img/pos_embedding", shape=(1, places, width)),
        *_encoder("image", "img/Transformer", c.image),
        r.same("image/pooling/probe", f"{head}/probe", shape=(1, 1, width)),
        *r.per_head_pooling(f"{head}/{MHA}", width, c.image.heads, NAMES),
        *r.norm("image/pooling/norm", f"{head}/LayerNorm_0", "scale", sep="/"),
        *_mlp("image/pooling/mlp", f"{head}/MlpBlock_0"),
        r.same("text/token_embedding", "txt/Embed_0/embedding"),
        r.same("text/positions", "txt/pos_embedding", shape=(1, c.n_tokens, c.text.width)),
        *_encoder("text", "txt/Encoder_0", c.text),
        *_dense("text/projection", "txt/head"),
        r.same("log_scale", "t", shape=(1,)),
        r.same("bias", "b", shape=(1,)),
    ]


def _encoder(ours: str, theirs: str, tower: TowerConfig) -> list[r.Rule]:
    found = r.norm(f"{ours}/norm", f"{theirs}/encoder_norm", "scale", sep="/")
    for k in range(tower.depth):
        block, layer = f"{ours}/block_{k}", f"{theirs}/encoderblock_{k}"
        found += r.norm(f"{block}/norm_attention", f"{layer}/LayerNorm_0", "scale", sep="/")
        found += r.per_head_attention(
            f"{block}/attention", f"{layer}/{MHA}", tower.width, tower.heads, NAMES
        )
        found += r.norm(f"{block}/norm_mlp", f"{layer}/LayerNorm_1", "scale", sep="/")
        found += _mlp(f"{block}/mlp", f"{layer}/MlpBlock_0")
    return found
