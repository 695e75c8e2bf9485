"""Makes the small random models below `golden/`, with inputs and the embeddings of their own code.

Run once, in an environment of its own; make_tokens.py comes first:

    pip install torch torchvision transformers timm open_clip_torch sentencepiece protobuf
    python tests/weights/make_models.py

Each folder is as its library writes it, without the vocabulary, which lies in tests/weights. io.npz
holds images [n, h, w, 3] in [-1, 1], tokens [n, L], zimg and ztxt of unit norm.
"""

import json
import pathlib
import shutil

import numpy as np
import timm
import torch
from open_clip.transformer import TextTransformer
from safetensors.torch import save_file
from transformers import (
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
    SiglipTokenizer,
)

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE / "golden"
HALF = [0.5, 0.5, 0.5]
N = 3


def settle(model, seed: int):
    """Every weight random: zero biases and unit gains would hide a swap. The key bias stays 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def inputs(side: int, length: int, vocab: int, seed: int):
    generator = np.random.default_rng(seed)
    images = generator.uniform(-1, 1, (N, side, side, 3)).astype(np.float32)
    return images, generator.integers(0, vocab, (N, length)).astype(np.int32)


def unit(x: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(x, dim=-1).numpy()


def save_io(folder: pathlib.Path, images, tokens, zimg, ztxt) -> None:
    np.savez_compressed(folder / "io.npz", images=images, tokens=tokens, zimg=zimg, ztxt=ztxt)


def tower(width: int, depth: int, heads: int, mlp: int) -> dict:
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": mlp,
    }


def siglip(name, *, image, text, side, patch, length, vocab, resample, seed, dtype=None) -> None:
    """transformers' SiglipModel with its processor."""
    folder = GOLDEN / name
    config = SiglipConfig(
        vision_config=tower(*image) | {"image_size": side, "patch_size": patch},
        text_config=tower(*text)
        | {
            "vocab_size": vocab,
            "max_position_embeddings": length,
            "projection_size": image[0],
            "bos_token_id": None,
            "eos_token_id": 1,
        },
    )
    model = settle(SiglipModel(config), seed)
    with torch.no_grad():
        third = model.vision_model.head.attention.in_proj_bias.shape[0] // 3
        model.vision_model.head.attention.in_proj_bias[third : 2 * third] = 0
    if dtype:
        model.to(dtype).save_pretrained(folder, max_shard_size="20KB")
        model = model.to(torch.float32)
    else:
        model.save_pretrained(folder)
    processor = SiglipImageProcessor(
        size={"height": side, "width": side}, image_mean=HALF, image_std=HALF, resample=resample
    )
    if resample == 3:
        tokenizer = SiglipTokenizer(str(HERE / "siglip.model"), model_max_length=length)
        SiglipProcessor(processor, tokenizer).save_pretrained(folder)
        (folder / "spiece.model").unlink()
    else:  # as the published SigLIP 2 folders are
        processor.save_pretrained(folder)
        settings = {"tokenizer_class": "GemmaTokenizer", "pad_token": "<pad>", "eos_token": "<eos>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    images, tokens = inputs(side, length, vocab, seed)
    pixels = torch.tensor(images.transpose(0, 3, 1, 2))
    with torch.no_grad():
        out = model(input_ids=torch.tensor(tokens).long(), pixel_values=pixels)
    save_io(folder, images, tokens, out.image_embeds.numpy(), out.text_embeds.numpy())


def naflex(name: str, *, seed: int) -> None:
    """Siglip2Model on a square of 16 x 16 patches."""
    folder, patch, vocab, length = GOLDEN / name, 2, 86, 8
    config = Siglip2Config(
        vision_config=tower(16, 1, 2, 24) | {"patch_size": patch, "num_patches": 256},
        text_config=tower(16, 1, 2, 24)
        | {"vocab_size": vocab, "max_position_embeddings": length, "projection_size": 16,
           "bos_token_id": None, "eos_token_id": 1},
    )  # fmt: skip
    model = settle(Siglip2Model(config), seed)
    model.save_pretrained(folder)
    images, tokens = inputs(16 * patch, length, vocab, seed)
    patches = images.reshape(N, 16, patch, 16, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(tokens).long(),
            pixel_values=torch.tensor(patches.reshape(N, 256, -1)),
            pixel_attention_mask=torch.ones(N, 256, dtype=torch.long),
            spatial_shapes=torch.full((N, 2), 16),
        )
    save_io(folder, images, tokens, out.image_embeds.numpy(), out.text_embeds.numpy())


def open_clip(name: str, *, seed: int) -> None:
    """timm's image tower and open_clip's text tower, as open_clip puts them into one file."""
    folder, side, patch, length, vocab = GOLDEN / name, 24, 8, 12, 86
    folder.mkdir(parents=True)
    image = timm.models.VisionTransformer(
        img_size=side, patch_size=patch, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.0,
        class_token=False, global_pool="map", num_classes=0, act_layer="gelu_tanh",
    )  # fmt: skip
    # timm's pooling block takes the plain GELU whatever the model is given.
    image.attn_pool.mlp.act = torch.nn.GELU(approximate="tanh")
    text = TextTransformer(
        context_length=length, vocab_size=vocab, width=20, heads=2, layers=2, mlp_ratio=2.0,
        output_dim=24, no_causal_mask=True, pool_type="last", proj_bias=True,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
        act_layer=lambda: torch.nn.GELU(approximate="tanh"),
    )  # fmt: skip
    settle(image, seed), settle(text, seed + 1)
    tensors = {f"visual.trunk.{k}": v for k, v in image.state_dict().items()}
    tensors |= {f"text.{k}": v for k, v in text.state_dict().items()}
    tensors |= {"logit_scale": torch.tensor(2.0), "logit_bias": torch.tensor(-3.0)}
    save_file(
        {k: v.contiguous() for k, v in tensors.items()}, folder / "open_clip_model.safetensors"
    )
    config = {
        "model_cfg": {
            "embed_dim": 24, "init_logit_bias": -10,
            "vision_cfg": {"image_size": side, "timm_model_name": "vit_tiny_siglip",
                           "timm_model_kwargs": {"num_heads": 3}},
            "text_cfg": {"context_length": length, "vocab_size": vocab, "heads": 2, "width": 20},
        },
        "preprocess_cfg": {"mean": HALF, "std": HALF, "interpolation": "bicubic",
                           "resize_mode": "squash"},
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    images, tokens = inputs(side, length, vocab, seed)
    with torch.no_grad():
        zimg = image(torch.tensor(images.transpose(0, 3, 1, 2)))
        ztxt = text(torch.tensor(tokens).long())
    save_io(folder, images, tokens, unit(zimg), unit(ztxt))


def main() -> None:
    """Writes the folders anew."""
    shutil.rmtree(GOLDEN, ignore_errors=True)
    # Width is not heads times 64, the text tower has another width, and 30 of 32 px are seen.
    siglip(
        "siglip", image=(24, 2, 2, 40), text=(20, 2, 4, 36), side=32, patch=10, length=16, vocab=86,
        resample=3, seed=1,
    )  # fmt: skip
    siglip(
        "siglip2_shards", image=(16, 1, 4, 40), text=(16, 2, 2, 24), side=24, patch=8, length=24,
        vocab=460, resample=2, seed=2, dtype=torch.bfloat16,
    )  # fmt: skip
    naflex("naflex", seed=3)
    open_clip("open_clip", seed=4)
    for file in sorted(GOLDEN.rglob("*")):
        if file.is_file():
            print(file.relative_to(HERE), file.stat().st_size)


if __name__ == "__main__":
    main()
