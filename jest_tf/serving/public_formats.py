"""A model in formats of other libraries: Hugging Face's transformers, big_vision, Keras.

The weights are ours, renamed and reshaped (models/weights); a key bias that ours lack is written as
zeros. A trimmed token table is written whole again: rows that were cut hold the unknown token's, so
that the family's own tokenizer gives the embeddings that ours gives.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import save_file

from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError
from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig, TowerConfig
from jest_tf.models.weights import big_vision, huggingface, rules
from jest_tf.serving import keras_towers
from jest_tf.serving.transformers_tokenizer import write_tokenizer

TABLE = "text/token_embedding"
RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers


@dataclasses.dataclass(frozen=True)
class PublicModel:
    """What is written: the sizes, our variables by name, and how text and pictures are read."""

    config: DualEncoderConfig
    weights: dict[str, np.ndarray]
    tokenizer: Tokenizer
    model: DualEncoder
    dtype: str = "float32"  # of the weights on the disk, where the format has a choice

    @classmethod
    def of(cls, model: DualEncoder, tokenizer: Tokenizer, dtype: str = "float32") -> "PublicModel":
        """The model as it is now; UserError: a weight is not finite, or too large for `dtype`."""
        weights = {
            variable.path.partition("/")[2]: keras.ops.convert_to_numpy(variable).astype("float32")
            for variable in model.variables
        }
        for name, value in weights.items():
            if not np.isfinite(value).all():
                raise UserError(f"weight {name} is not finite: export an earlier checkpoint")
            if np.abs(value).max() > np.finfo(dtype).max:
                raise UserError(f"weight {name} is too large for {dtype}: export float32")
        config = model.config
        if tokenizer.rule.kept_ids:
            weights[TABLE] = weights[TABLE][tokenizer.rows]
            config = dataclasses.replace(config, vocab_size=len(tokenizer.rows))
        return cls(config, weights, tokenizer, model, dtype)


def write_huggingface(public: PublicModel, folder: Path) -> list[str]:
    """A folder that SiglipModel.from_pretrained and AutoProcessor load; returns remarks."""
    folder.mkdir()
    named = rules.from_ours(huggingface.rules(public.config), public.weights)
    tensors = {name: value.astype(public.dtype) for name, value in named}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    pixels = public.model.pixels
    side = public.config.image_size + pixels.margin
    _write_json(folder / "config.json", _huggingface_config(public, side))
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": "SiglipProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": side, "width": side},
            "resample": RESAMPLE[pixels.resize],
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    )
    write_tokenizer(public.tokenizer, folder)
    if pixels.antialias:
        return []
    return ["transformers resizes with antialias and this model was trained without: small pixels"]


def _huggingface_config(public: PublicModel, side: int) -> dict[str, Any]:
    c, tokenizer = public.config, public.tokenizer

    def tower(t: TowerConfig) -> dict[str, Any]:
        return {
            "hidden_size": t.width,
            "intermediate_size": t.mlp_dim,
            "num_hidden_layers": t.depth,
            "num_attention_heads": t.heads,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "attention_dropout": 0.0,
        }

    vision = {"model_type": "siglip_vision_model", "image_size": side, "patch_size": c.patch_size}
    text = {
        "model_type": "siglip_text_model",
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.n_tokens,
        "projection_size": c.embed_dim,
        "pad_token_id": tokenizer.rule.pad_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.end_id,
    }
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "torch_dtype": public.dtype,
        "initializer_factor": 1.0,
        "vision_config": tower(c.image) | vision | {"num_channels": 3, "vision_use_head": True},
        "text_config": tower(c.text) | text,
    }


def write_big_vision(public: PublicModel, path: Path) -> list[str]:
    """One .npz as SigLIP's, blocks one by one below `params/`."""
    tensors = rules.from_ours(big_vision.rules(public.config), public.weights)
    with open(path, "wb") as file:
        np.savez(file, **{f"{big_vision.PARAMS}{name}": value for name, value in tensors})
    pixels = public.model.pixels
    return [
        f"an .npz holds weights alone: pictures of {public.config.image_size + pixels.margin} px, "
        f"{pixels}; tokens of {Path(public.tokenizer.vocab_path).name}, padded with "
        f"{public.tokenizer.rule.pad_id}, {str(public.tokenizer.rule) or 'plain'}"
    ]


def write_keras(public: PublicModel, path: Path) -> list[str]:
    """A .keras file of the towers, of Keras's own layers."""
    keras_towers.towers(public.config, public.weights, public.model.pixels.margin).save(path)
    return ["the .keras file takes pixels in [-1, 1] and token ids; it holds no tokenizer"]


WRITERS: dict[str, tuple[str, Callable[[PublicModel, Path], list[str]]]] = {
    # --format -> what a workdir's own export of it is called, and how it is written
    "huggingface": ("export_huggingface", write_huggingface),
    "big_vision": ("export_big_vision.npz", write_big_vision),
    "keras": ("export_towers.keras", write_keras),
}


def export_public(
    model: DualEncoder, tokenizer: Tokenizer, kind: str, out: str, dtype: str = "float32"
) -> list[str]:
    """Writes `out`, all or nothing; returns remarks about what the format cannot hold.

    UserError: `out` is there, has another ending than the format, or the model does not fit.
    """
    default, writer = WRITERS[kind]
    path, ending = Path(out), Path(default).suffix
    if path.exists() or path.is_symlink():
        raise UserError(f"--out={out} is there already: remove it, or give another --out")
    if ending and path.suffix != ending:
        raise UserError(f"--out={out}: --format={kind} writes a file that ends on {ending}")
    public = PublicModel.of(model, tokenizer, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.incomplete{ending}")
    _remove(aside)
    try:
        remarks = writer(public, aside)
        aside.rename(path)
    finally:
        _remove(aside)
    return remarks


def interpolate(model: DualEncoder, start: DualEncoder, share: float) -> None:
    """Sets the weights to (1 - share)·start + share·model: WiSE-FT (arXiv 2109.01903)."""
    pairs = list(zip(model.variables, start.variables, strict=False))
    if len(model.variables) != len(start.variables) or any(a.shape != b.shape for a, b in pairs):
        raise UserError(
            f"--with names a model of other sizes: {start.config}; the run has {model.config}"
        )
    for variable, first in pairs:
        variable.assign((1 - share) * first.numpy() + share * variable.numpy())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
