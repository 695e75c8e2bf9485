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
    grid, width = c.image_size // c.patch_size, c.image.width
    found = [
        r.transposed("image/embedding/kernel", f"{TRUNK}.patch_embed.proj.weight", (2, 3, 1, 0)),
        r.same("image/embedding/bias", f"{TRUNK}.patch_embed.proj.bias"),
        r.reshaped(
            "image/embedding/positions", f"{TRUNK}.pos_embed",
            (grid, grid, width), (1, grid * grid, width),
        ),
        *r.norm("image/norm", f"{TRUNK}.norm"),
        *_pooling(width),
        r.same("text/token_embedding", "text.token_embedding.weight"),
        r.same("text/positions", "text.positional_embedding"),
        *r.norm("text/norm", "text.ln_final"),
        *r.torch_dense("text/projection", "text.text_projection"),
        r.same("log_scale", "logit_scale"),
        r.same("bias", "logit_bias"),
    ]  # fmt: skip
    for k in range(c.image.depth):
        block, layer = f"image/block_{k}", f"{TRUNK}.blocks.{k}"
        found += r.norm(f"{block}/norm_attention", f"{layer}.norm1")
        found += [r.transposed(f"{block}/attention/qkv_kernel", f"{layer}.attn.qkv.weight")]
        found += [r.same(f"{block}/attention/qkv_bias", f"{layer}.attn.qkv.bias")]
        found += r.torch_dense(f"{block}/attention/out", f"{layer}.attn.proj")
        found += r.norm(f"{block}/norm_mlp", f"{layer}.norm2")
        found += r.mlp(f"{block}/mlp", f"{layer}.mlp", ".fc1", ".fc2", r.torch_dense)
    for k in range(c.text.depth):
        block, layer = f"text/block_{k}", f"text.transformer.resblocks.{k}"
        found += r.norm(f"{block}/norm_attention", f"{layer}.ln_1")
        found += [r.transposed(f"{block}/attention/qkv_kernel", f"{layer}.attn.in_proj_weight")]
        found += [r.same(f"{block}/attention/qkv_bias", f"{layer}.attn.in_proj_bias")]
        found += r.torch_dense(f"{block}/attention/out", f"{layer}.attn.out_proj")
        found += r.norm(f"{block}/norm_mlp", f"{layer}.ln_2")
        found += r.mlp(f"{block}/mlp", f"{layer}.mlp", ".c_fc", ".c_proj", r.torch_dense)
    return found


def _pooling(width: int) -> list[r.Rule]:
    """timm's AttentionPoolLatent: `kv` holds key and value in its rows."""
    ours = "image/pooling"
    return [
        r.reshaped(f"{ours}/probe", f"{POOL}.latent", (1, width), (1, 1, width)),
        r.transposed(f"{ours}/query_kernel", f"{POOL}.q.weight"),
        r.same(f"{ours}/query_bias", f"{POOL}.q.bias"),
        r.rows_of([f"{ours}/key_kernel", f"{ours}/value_kernel"], f"{POOL}.kv.weight"),
        r.Rule(
            (f"{ours}/value_bias",),
            (f"{POOL}.kv.bias",),
            lambda b: (b[width:],),
            lambda v: (np.concatenate([np.zeros_like(v), v]),),
        ),
        *r.torch_dense(f"{ours}/out", f"{POOL}.proj"),
        *r.norm(f"{ours}/norm", f"{POOL}.norm"),
        *r.mlp(f"{ours}/mlp", f"{POOL}.mlp", ".fc1", ".fc2", r.torch_dense),
    ]
