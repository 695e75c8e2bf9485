"""A folder or file of public weights: which tensors, and what the files beside them tell.

Tensors give the sizes. Only what no tensor tells is read from JSON files: attention heads, how
pictures are resized, how text is tokenized.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from jest_tf.errors import UserError
from jest_tf.files import read_object
from jest_tf.models.weights import FORMATS, huggingface, keras_hub, open_clip
from jest_tf.models.weights.rules import refuse_clip
from jest_tf.models.weights.tensors import PICKLES, Tensors, open_tensors, refuse_pickle

WEIGHTS = (
    "model.safetensors", "open_clip_model.safetensors", "model.weights.h5", "*.safetensors",
    "*.weights.h5", "*.npz",
)  # fmt: skip
INDEX = "model.safetensors.index.json"
VOCABULARIES = (
    "spiece.model", "tokenizer.model", "sentencepiece.model", "*.model", "*.spm",
    "assets/tokenizer/*.spm", "vocab.txt",
)  # fmt: skip
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
HALF = [0.5, 0.5, 0.5]


@dataclasses.dataclass(frozen=True)
class Hints:
    """What the files beside the tensors tell."""

    heads: tuple[int, int] | None = None
    side: int | None = None  # of pictures, in pixels
    resize: str | None = None
    tokenizer: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Source:
    """Public weights as they lie on the disk. `tensors`: as the format's `rules` name them."""

    name: str
    format: ModuleType
    tensors: Tensors
    hints: Hints
    vocabulary: str | None


def open_source(path: str) -> Source:
    """Finds format, tensors and side files; UserError: none, damaged, or another architecture."""
    files = _weight_files(path)
    folder = Path(files[0]).parent
    _refuse_other_config(folder, path)
    tensors = open_tensors(files)
    refuse_clip(tensors, path)
    for kind in FORMATS:
        if kind.is_this(tensors):
            hints = HINTS.get(kind, lambda _: Hints())(folder)
            lists = (sorted(folder.glob(pattern)) for pattern in VOCABULARIES)
            vocabulary = next((str(found[0]) for found in lists if found), None)
            return Source(path, kind, kind.views(tensors), hints, vocabulary)
    known = "; ".join(kind.DESCRIPTION for kind in FORMATS)
    raise UserError(
        f"{path} holds {len(tensors)} tensors ({', '.join(sorted(tensors)[:3])}, …) of another "
        f"architecture or layout. Expected one of: {known}."
    )


def _weight_files(path: str) -> list[str]:
    if os.path.isfile(path):
        refuse_pickle(path)
        return _shards(Path(path)) if path.endswith(INDEX) else [path]
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"--from={path}: no such file or folder. Give the weights you downloaded.")
    if (folder / INDEX).exists():
        return _shards(folder / INDEX)
    pickles = sorted(str(file) for file in folder.iterdir() if file.suffix in PICKLES)
    for pattern in WEIGHTS:
        if pattern == "*.npz" and pickles:  # the .npz holds something else, such as --check's
            break
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return [str(found[0])]
        if found:
            raise UserError(f"{path} holds {len(found)} {pattern} files: give the one to import")
    if pickles:
        refuse_pickle(pickles[0])
    raise UserError(f"{path} holds no weights: expected one of {', '.join((INDEX, *WEIGHTS))}")


def _shards(index: Path) -> list[str]:
    of_tensors = _Fields.of(index).part("weight_map")
    names = {of_tensors.get(name, str) for name in of_tensors.values}
    missing = [
        name for name in sorted(names) if not (index.parent / os.path.basename(name)).exists()
    ]
    if missing or not names:
        raise UserError(f"{index} names shards that are not there: {', '.join(missing) or 'none'}")
    return [str(index.parent / os.path.basename(name)) for name in sorted(names)]


TYPES = {
    dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Fields:
    """An object in a JSON file; `where` names it in messages."""

    where: str
    values: dict[str, Any]

    @classmethod
    def of(cls, path: Path) -> "_Fields":
        """Content of a JSON file; empty where there is none."""
        return cls(str(path), read_object(path, "settings of a model") if path.exists() else {})

    def part(self, name: str) -> "_Fields":
        """An object of the object; empty where there is none, or null."""
        inner = {} if self.values.get(name) is None else self.get(name, dict)
        return _Fields(f"{self.where}, {name}", inner)

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """A field, or `default` where there is none; UserError: it is not of `kind`."""
        if name not in self.values:
            return default
        value = self.values[name]
        kinds = (int, float) if kind is float else kind
        if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
            raise UserError(
                f"{self.where}: {name} is {json.dumps(value)[:80]}; expected {TYPES[kind]}. Fetch "
                "the files of this model again."
            )
        return value


def _refuse_other_config(folder: Path, path: str) -> None:
    """By config.json, where it names another model of transformers."""
    kind = _Fields.of(folder / "config.json").get("model_type", str)
    if kind and "siglip" not in kind:
        if "clip" in kind:
            refuse_clip({"class_embedding": None}, f"{path} (model_type {kind!r})")
        raise UserError(
            f"{path}: config.json says model_type {kind!r}, another architecture; expected siglip. "
            "A model that embeds both pictures and texts can still be a cached reference: python "
            "-m jest_tf.cache_reference --embeddings=…"
        )


def _huggingface(folder: Path) -> Hints:
    config = _Fields.of(folder / "config.json")
    vision, text = config.part("vision_config"), config.part("text_config")
    for part in (vision, text):
        act = part.get("hidden_act", str, "gelu_pytorch_tanh")
        eps = part.get("layer_norm_eps", float, 1e-6)
        if act not in ("gelu_pytorch_tanh", "gelu_new") or not abs(eps - 1e-6) <= 1e-9:
            raise UserError(
                f"{part.where} has hidden_act {act!r} and layer_norm_eps {eps}; our towers "
                "compute gelu_pytorch_tanh and 1e-6, and would give other embeddings"
            )
    heads = tuple(part.get("num_attention_heads", int, 12) for part in (vision, text))
    # transformers 5 keeps both processors in one file.
    pixels = _Fields.of(folder / "preprocessor_config.json")
    if not pixels.values:
        pixels = _Fields.of(folder / "processor_config.json").part("image_processor")
    is_flexible = "num_patches" in vision.values  # NaFlex: a square of patches, whatever the size
    side = None
    if not is_flexible and config.values:
        side = _side(vision.values.get("image_size", 224), folder)
    if pixels.values and not is_flexible:
        _require_half(pixels, "image_mean", "image_std")
        if pixels.values.get("do_center_crop"):
            raise UserError(f"{folder}: do_center_crop is set; SigLIP takes the whole picture")
        side = _side(pixels.values.get("size", side), folder)
    resample = pixels.get("resample", int, 2 if is_flexible else 3)
    return Hints(
        heads if config.values else None,
        side,
        RESAMPLE.get(resample, f"resample {resample}"),
        _tokenizer(folder),
    )


def _tokenizer(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json tells of the class, the padding and the case."""
    told = _Fields.of(folder / "tokenizer_config.json")
    pad = told.values.get("pad_token")
    if isinstance(pad, dict):
        pad = told.part("pad_token").get("content", str)
    elif pad is not None:
        pad = told.get("pad_token", str)
    return told.values | {"pad_token": pad}


def _open_clip(folder: Path) -> Hints:
    content = _Fields.of(folder / "open_clip_config.json")
    model, pixels = content.part("model_cfg"), content.part("preprocess_cfg")
    _require_half(pixels, "mean", "std")
    heads = model.part("text_cfg").get("heads", int)
    # timm names its towers and does not tell the heads. In every SigLIP both towers have as many.
    vision = model.part("vision_cfg")
    of_image = vision.part("timm_model_kwargs").get("num_heads", int, heads)
    side = pixels.values.get("size") or vision.values.get("image_size")
    return Hints(
        (of_image, heads) if heads else None,
        _side(side, folder) if side else None,
        _resize(pixels),
    )


def _keras_hub(folder: Path) -> Hints:
    pixels = _Fields.of(folder / "image_converter.json").part("config")
    side = pixels.values.get("image_size")
    return Hints(side=_side(side, folder) if side else None, resize=_resize(pixels))


def _resize(pixels: _Fields) -> str | None:
    untold = pixels.values.get("interpolation") is None
    return None if untold else pixels.get("interpolation", str)


def _side(size: Any, folder: Path) -> int:
    """224, [224, 224] or {height, width} -> 224."""
    is_sides = isinstance(size, dict) and size.keys() == {"height", "width"}
    values = list(size.values()) if is_sides else size
    first, *rest = values if isinstance(values, list) and values else [values]
    if not isinstance(first, int) or any(other != first for other in rest):
        raise UserError(f"{folder}: pictures of size {json.dumps(size)}; expected a square")
    return first


def _require_half(pixels: _Fields, mean: str, std: str) -> None:
    found, spread = (pixels.get(name, list, HALF) for name in (mean, std))
    if found != HALF or spread != HALF:
        raise UserError(
            f"{pixels.where}: pixels are normalised by mean {found} and std {spread}; SigLIP's are "
            f"{HALF}, which gives -1 to 1. Another mean is a sign of another model."
        )


HINTS: dict[ModuleType, Callable[[Path], Hints]] = {
    huggingface: _huggingface,
    open_clip: _open_clip,
    keras_hub: _keras_hub,
}
