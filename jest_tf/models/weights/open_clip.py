"""SigLIP of open_clip: timm's image tower, open_clip's text tower, .safetensors."""

from collections.abc import Iterable

import numpy as np

from jest_tf.models.dual_encoder import DualEncoderConfig
from jest_tf.models.weights.rules import (
    Rule,
    Sizes,
    axis,
    depth,
    mlp,
    norm,
    reshaped,
    same,
    torch_dense,
    transposed,
)
from jest_tf.models.weights.tensors import Tensors

DESCRIPTION = "open_clip / timm SigLIP (open_clip_config.json, open_clip_model.safetensors)"
TRUNK, POOL = "visual.trunk", "visual.trunk.attn_pool"


def is_this(names: Iterable[str]) -> bool:
    return any(name.startswith((f"{TRUNK}.", "text.transformer.")) for name in names)


def views(tensors: Tensors) -> Tensors:
    return dict(tensors)


def measure(tensors: Tensors) -> Sizes:
    """Sizes by the tensors; the heads stand in open_clip_config.json."""
    image = (
        axis(tensors, rf"{TRUNK}\..*norm\d?\.(weight|bias)", 0),
        depth(tensors, rf"{TRUNK}\.blocks\.(\d+)\..*"),
        axis(tensors, rf"{TRUNK}\..*\.mlp\.fc1\.(weight|bias)", 0),
    )
    text = (
        axis(tensors, r"text\..*ln_\w+\.(weight|bias)", 0),
        depth(tensors, r"text\.transformer\.resblocks\.(\d+)\..*"),
        axis(tensors, r"text\..*\.mlp\.c_fc\.(weight|bias)", 0),
    )
    return Sizes(
        patch=axis(tensors, rf"{TRUNK}\.patch_embed\.proj\.weight", 2),
        places=axis(tensors, rf"{TRUNK}\.pos_embed", 1),
        image=image,
        text=text,
        n_tokens=axis(tensors, r"text\.positional_embedding", 0),
        vocab_size=axis(tensors, r"text\.token_embedding\.weight", 0),
        embed_dim=image[0],
    )


def rules(c: DualEncoderConfig) -> list[Rule]:
    grid, width = c.image_size // c.patch_size, c.image.width
    found = [
        transposed("image/embedding/kernel", f"{TRUNK}.patch_embed.proj.weight", (2, 3, 1, 0)),
        same("image/embedding/bias", f"{TRUNK}.patch_embed.proj.bias"),
        reshaped(
            "image/embedding/positions", f"{TRUNK}.pos_embed",
            (grid, grid, width), (1, grid * grid, width),
        ),
        *norm("image/norm", f"{TRUNK}.norm"),
        *_pooling(width),
        same("text/token_embedding", "text.token_embedding.weight"),
        same("text/positions", "text.positional_embedding"),
        *norm("text/norm", "text.ln_final"),
        *torch_dense("text/projection", "text.text_projection"),
        same("log_scale", "logit_scale"),
        same("bias", "logit_bias"),
    ]  # fmt: skip
    for k in range(c.image.depth):
        block, layer = f"image/block_{k}", f"{TRUNK}.blocks.{k}"
        found += norm(f"{block}/norm_attention", f"{layer}.norm1")
        found += [transposed(f"{block}/attention/qkv_kernel", f"{layer}.attn.qkv.weight")]
        found += [same(f"{block}/attention/qkv_bias", f"{layer}.attn.qkv.bias")]
        found += torch_dense(f"{block}/attention/out", f"{layer}.attn.proj")
        found += norm(f"{block}/norm_mlp", f"{layer}.norm2")
        found += mlp(f"{block}/mlp", f"{layer}.mlp", ".fc1", ".fc2", torch_dense)
    for k in range(c.text.depth):
        block, layer = f"text/block_{k}", f"text.transformer.resblocks.{k}"
        found += norm(f"{block}/norm_attention", f"{layer}.ln_1")
        found += [transposed(f"{block}/attention/qkv_kernel", f"{layer}.attn.in_proj_weight")]
        found += [same(f"{block}/attention/qkv_bias", f"{layer}.attn.in_proj_bias")]
        found += torch_dense(f"{block}/attention/out", f"{layer}.attn.out_proj")
        found += norm(f"{block}/norm_mlp", f"{layer}.ln_2")
        found += mlp(f"{block}/mlp", f"{layer}.mlp", ".c_fc", ".c_proj", torch_dense)
    return found


def _pooling(width: int) -> list[Rule]:
    """timm's AttentionPoolLatent: `kv` holds key and value in its rows."""
    ours = "image/pooling"
    return [
        reshaped(f"{ours}/probe", f"{POOL}.latent", (1, width), (1, 1, width)),
        transposed(f"{ours}/query_kernel", f"{POOL}.q.weight"),
        same(f"{ours}/query_bias", f"{POOL}.q.bias"),
        Rule(
            (f"{ours}/key_kernel", f"{ours}/value_kernel"),
            (f"{POOL}.kv.weight",),
            lambda w: [x.T for x in np.split(w, 2)],
            lambda k, v: (np.concatenate([k.T, v.T]),),
        ),
        Rule(
            (f"{ours}/value_bias",),
            (f"{POOL}.kv.bias",),
            lambda b: (b[width:],),
            lambda v: (np.concatenate([np.zeros_like(v), v]),),
        ),
        *torch_dense(f"{ours}/out", f"{POOL}.proj"),
        *norm(f"{ours}/norm", f"{POOL}.norm"),
        *mlp(f"{ours}/mlp", f"{POOL}.mlp", ".fc1", ".fc2", torch_dense),
    ]
