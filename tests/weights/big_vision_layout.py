"""A SiglipModel's tensors in big_vision's layout, by the table of its names, not by our rules."""

import ml_dtypes
import numpy as np

MHA = "MultiHeadDotProductAttention_0"


def from_huggingface(hf: dict[str, np.ndarray], heads: dict[str, int]) -> dict[str, np.ndarray]:
    """One entry a block, no `params/`. heads: {"img": …, "txt": …}."""
    vision, text = "vision_model", "text_model"
    head = f"{vision}.head"
    width = hf[f"{head}.probe"].shape[-1]
    patches = hf[f"{vision}.embeddings.patch_embedding.weight"]
    found = {
        "t": hf["logit_scale"],
        "b": hf["logit_bias"],
        "img/embedding/kernel": patches.transpose(2, 3, 1, 0),
        "img/embedding/bias": hf[f"{vision}.embeddings.patch_embedding.bias"],
        "img/pos_embedding": hf[f"{vision}.embeddings.position_embedding.weight"][None],
        "img/MAPHead_0/probe": hf[f"{head}.probe"],
        "txt/Embed_0/embedding": hf[f"{text}.embeddings.token_embedding.weight"],
        "txt/pos_embedding": hf[f"{text}.embeddings.position_embedding.weight"][None],
        "txt/head/kernel": hf[f"{text}.head.weight"].T,
        "txt/head/bias": hf[f"{text}.head.bias"],
    }  # fmt: skip
    by_head = (width, heads["img"], -1)
    for part, kernel, bias in zip(
        ("query", "key", "value"),
        np.split(hf[f"{head}.attention.in_proj_weight"], 3),
        np.split(hf[f"{head}.attention.in_proj_bias"], 3),
        strict=True,
    ):
        found[f"img/MAPHead_0/{MHA}/{part}/kernel"] = kernel.T.reshape(by_head)
        found[f"img/MAPHead_0/{MHA}/{part}/bias"] = bias.reshape(by_head[1:])
    out = hf[f"{head}.attention.out_proj.weight"].T
    found[f"img/MAPHead_0/{MHA}/out/kernel"] = out.reshape(heads["img"], -1, width)
    found[f"img/MAPHead_0/{MHA}/out/bias"] = hf[f"{head}.attention.out_proj.bias"]
    found |= _norm("img/MAPHead_0/LayerNorm_0", hf, f"{head}.layernorm")
    found |= _mlp("img/MAPHead_0/MlpBlock_0", hf, f"{head}.mlp")
    for name, theirs, encoder, last in (
        ("img", vision, "img/Transformer", "post_layernorm"),
        ("txt", text, "txt/Encoder_0", "final_layer_norm"),
    ):
        found |= _norm(f"{encoder}/encoder_norm", hf, f"{theirs}.{last}")
        depth = 1 + max(int(k.split(".")[3]) for k in hf if k.startswith(f"{theirs}.encoder"))
        for k in range(depth):
            block, layer = f"{encoder}/encoderblock_{k}", f"{theirs}.encoder.layers.{k}"
            found |= _norm(f"{block}/LayerNorm_0", hf, f"{layer}.layer_norm1")
            found |= _norm(f"{block}/LayerNorm_1", hf, f"{layer}.layer_norm2")
            found |= _mlp(f"{block}/MlpBlock_0", hf, f"{layer}.mlp")
            for part in ("query", "key", "value"):
                linear = f"{layer}.self_attn.{part[0]}_proj"
                kernel = hf[f"{linear}.weight"].T
                found[f"{block}/{MHA}/{part}/kernel"] = kernel.reshape(len(kernel), heads[name], -1)
                found[f"{block}/{MHA}/{part}/bias"] = hf[f"{linear}.bias"].reshape(heads[name], -1)
            out = hf[f"{layer}.self_attn.out_proj.weight"].T
            found[f"{block}/{MHA}/out/kernel"] = out.reshape(heads[name], -1, len(out))
            found[f"{block}/{MHA}/out/bias"] = hf[f"{layer}.self_attn.out_proj.bias"]
    return found


def stacked(blocks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As SigLIP 2 keeps them: one entry for all blocks, with a leading axis of depth."""
    found, groups = {}, {}
    for name, value in blocks.items():
        before, mark, after = name.partition("/encoderblock_")
        if not mark:
            found[name] = value
            continue
        number, _, rest = after.partition("/")
        groups.setdefault(f"{before}/encoderblock/{rest}", {})[int(number)] = value
    return found | {k: np.stack([v[i] for i in sorted(v)]) for k, v in groups.items()}


def with_prefix(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Below `params/`, beside something of an optimizer."""
    return {f"params/{k}": v for k, v in tensors.items()} | {"opt/count": np.int32(7)}


def as_void(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """bfloat16 as np.savez keeps it: two bytes without a type."""
    return {k: np.asarray(v, ml_dtypes.bfloat16).view("V2") for k, v in tensors.items()}


def _norm(name: str, hf: dict, theirs: str) -> dict[str, np.ndarray]:
    return {f"{name}/scale": hf[f"{theirs}.weight"], f"{name}/bias": hf[f"{theirs}.bias"]}


def _mlp(name: str, hf: dict, theirs: str) -> dict[str, np.ndarray]:
    return {
        f"{name}/Dense_{i}/{ours}": value
        for i, layer in enumerate(("fc1", "fc2"))
        for ours, value in (
            ("kernel", hf[f"{theirs}.{layer}.weight"].T),
            ("bias", hf[f"{theirs}.{layer}.bias"]),
        )
    }
