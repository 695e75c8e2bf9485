"""SigLIP of open_clip: timm's image tower, open_clip's text tower, .safetensors."""

from collections.abc import Iterable

import numpy as np

from jest_tf.models.dual_encoder import DualEncoderConfig
from jest_tf.models.weights import rules as r
from jest_tf.models.weights.tensors import Tensors

DESCRIPTION = "open_clip / timm SigLIP (open_clip_config.json, open_clip_model.safetensors)"
TRUNK, POOL = "visual.trunk", "visual.trunk.attn_pool"


def is_this(names: Iterable[str]) -> bool:
    return any(name.startswith((f"{TRUNK}.", "text.transformer.")) for name in names)


def views(tensors: Tensors) -> Tensors:
    return dict(tensors)


def measure(tensors: Tensors) -> r.Sizes:
    """Sizes by the tensors; the heads stand in open_clip_config.json."""
    image = (
        r.axis(tensors, rf"{TRUNK}\..*norm\d?\.(weight|bias)", 0),
        r.depth(tensors, rf"{TRUNK}\.blocks\.(\d+)\..*"),
        r.axis(tensors, rf"{TRUNK}\..*\.mlp\.fc1\.(weight|bias)", 0),
    )
    text = (
        r.axis(tensors, r"text\..*ln_\w+\.(weight|bias)", 0),
        r.depth(tensors, r"text\.transformer\.resblocks\.(\d+)\..*"),
        r.axis(tensors, r"text\..*\.mlp\.c_fc\.(weight|bias)", 0),
    )
    return r.Sizes(
        patch=r.axis(tensors, rf"{TRUNK}\.patch_embed\.proj\.weight", 2),
        places=r.axis(tensors, rf"{TRUNK}\.pos_embed", 1),
        image=image,
        text=text,
        n_tokens=r.axis(tensors, r"text\.positional_embedding", 0),
        vocab_size=r.axis(tensors, r"text\.token_embedding\.weight", 0),
        embed_dim=image[0],
    )


def rules(c: DualEncoderConfig) -> list[r.Rule]:
    places, width = (c.image_size // c.patch_size) ** 2, c.image.width
    found = [
        r.same("image/embedding/kernel", f"{TRUNK}.patch_embed.proj.weight", axes=(2, 3, 1, 0)),
        r.same("image/embedding/bias", f"{TRUNK}.patch_embed.proj.bias"),
        r.same("image/embedding/positions", f"{TRUNK}.pos_embed", shape=(1, places, width)),
        *r.norm("image/norm", f"{TRUNK}.norm"),
        *_pooling(width),
        r.same("text/token_embedding", "text.token_embedding.weight"),
        r.same("text/positions", "text.positional_embedding"),
        *r.norm("text/norm", "text.ln_final"),
        *r.torch_dense("text/projection", "text.text_projection"),
        r.same("log_scale", "logit_scale"),
        r.same("bias", "logit_bias"),
    ]
    for k in range(c.image.depth):
        names = ("norm1", "norm2"), ("attn.qkv.", "attn.proj"), (".fc1", ".fc2")
        found += _block(f"image/block_{k}", f"{TRUNK}.blocks.{k}", *names)
    for k in range(c.text.depth):
        names = ("ln_1", "ln_2"), ("attn.in_proj_", "attn.out_proj"), (".c_fc", ".c_proj")
        found += _block(f"text/block_{k}", f"text.transformer.resblocks.{k}", *names)
    return found


def _block(ours: str, theirs: str, norms: tuple, attention: tuple, mlp: tuple) -> list[r.Rule]:
    """One block of a tower; norms, attention, mlp: their names of the parts, in their order."""
    qkv, out = (f"{theirs}.{name}" for name in attention)
    return [
        *r.norm(f"{ours}/norm_attention", f"{theirs}.{norms[0]}"),
        r.same(f"{ours}/attention/qkv_kernel", f"{qkv}weight", axes=(1, 0)),
        r.same(f"{ours}/attention/qkv_bias", f"{qkv}bias"),
        *r.torch_dense(f"{ours}/attention/out", out),
        *r.norm(f"{ours}/norm_mlp", f"{theirs}.{norms[1]}"),
        *r.mlp(f"{ours}/mlp", f"{theirs}.mlp", *mlp, r.torch_dense),
    ]


def _pooling(width: int) -> list[r.Rule]:
    """timm's AttentionPoolLatent: `kv` holds key and value in its rows."""
    ours = "image/pooling"
    return [
        r.same(f"{ours}/probe", f"{POOL}.latent", shape=(1, 1, width)),
        r.same(f"{ours}/query_kernel", f"{POOL}.q.weight", axes=(1, 0)),
        r.same(f"{ours}/query_bias", f"{POOL}.q.bias"),
        r.rows_of([f"{ours}/key_kernel", f"{ours}/value_kernel"], f"{POOL}.kv.weight"),
        r.Rule(
            (f"{ours}/value_bias",),
            (f"{POOL}.kv.bias",),
            lambda _, b: (b[width:],),
            lambda v: (np.concatenate([np.zeros_like(v), v]),),
        ),
        *r.torch_dense(f"{ours}/out", f"{POOL}.proj"),
        *r.norm(f"{ours}/norm", f"{POOL}.norm"),
        *r.mlp(f"{ours}/mlp", f"{POOL}.mlp", ".fc1", ".fc2", r.torch_dense),
    ]
