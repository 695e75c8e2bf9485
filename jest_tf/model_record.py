"""`model.json` of a workdir: sizes of the towers, and how text and pictures reach them.

Weights alone are no model. The same towers give other embeddings for another padding token or
another resize, so these rules travel with the weights: from an import or a training run to
evaluation, export, reference caches and the runs that start from it. No TensorFlow here.
"""

import dataclasses
import hashlib
import json
import os
from typing import Any

from jest_tf.errors import explaining
from jest_tf.files import parse_json, write_atomically

SCHEMA = 1
FILE = "model.json"
RESIZES = ("bilinear", "bicubic")
RANGE = [-1.0, 1.0]


@dataclasses.dataclass(frozen=True)
class TokenizerRule:
    """How text becomes token ids, besides the vocabulary file."""

    pad_id: int = 0  # fills the row behind the end token (SigLIP: 1, SigLIP 2: 0)
    lower: bool = False  # lower-case first; WordPiece vocabularies do so in any case
    canonicalize: bool = False  # no ASCII punctuation, white space collapsed, as SigLIP's
    kept_ids: tuple[int, ...] = ()  # of a trimmed token table: the id in the file of each row

    def __str__(self) -> str:
        """Short text that differs where token ids may differ; empty for the default rule."""
        if self == TokenizerRule():
            return ""
        kept = hashlib.sha256(str(self.kept_ids).encode()).hexdigest()[:8] if self.kept_ids else ""
        words = ["lower"] * self.lower + ["canonical"] * self.canonicalize
        return "-".join([f"pad{self.pad_id}", *words, *([f"rows{kept}"] if kept else [])])


@dataclasses.dataclass(frozen=True)
class PixelRule:
    """How a picture becomes a square of pixels in [-1, 1]."""

    resize: str = "bilinear"  # bilinear | bicubic, of the whole picture; its aspect is not kept
    antialias: bool = True  # as Pillow does and TensorFlow's default does not
    margin: int = 0  # pixels cut off right and below: 6 of 384 px in patches of 14

    def __str__(self) -> str:
        kind = f"{'antialiased ' if self.antialias else ''}{self.resize}"
        return kind + (f", {self.margin} px cut off right and below" if self.margin else "")


@dataclasses.dataclass(frozen=True)
class ModelRecord:
    """The content of `model.json`."""

    sizes: dict[str, Any]  # `asdict` of the DualEncoderConfig
    vocabulary: str  # its file in the workdir
    fingerprint: str  # of the tokenizer
    end_id: int
    n_tokens: int
    image_size: int  # of decoded pictures, in pixels
    tokenizer: TokenizerRule = TokenizerRule()
    pixels: PixelRule = PixelRule()

    def save(self, workdir: str | os.PathLike) -> None:
        """Writes `model.json`, all or nothing."""
        rule, pixels = self.tokenizer, self.pixels
        content = {
            "schema": SCHEMA,
            "sizes": self.sizes,
            "tokenizer": {
                "file": self.vocabulary,
                "fingerprint": self.fingerprint,
                "length": self.n_tokens,
                "end_id": self.end_id,
                "sticky_end": True,
                **dataclasses.asdict(rule),
            },
            "pixels": {
                "size": self.image_size + pixels.margin,
                "crop": self.image_size,
                "resize": pixels.resize,
                "antialias": pixels.antialias,
                "range": RANGE,
            },
        }
        text = json.dumps(content, ensure_ascii=False) + "\n"
        write_atomically(os.path.join(workdir, FILE), text)

    @classmethod
    def load(cls, workdir: str | os.PathLike) -> "ModelRecord | None":
        """The record of a workdir; None where an older run wrote none. UserError: it is damaged."""
        path = os.path.join(workdir, FILE)
        if not os.path.exists(path):
            return None
        kinds = (OSError, ValueError, KeyError, TypeError, AttributeError)
        text = f"{path} cannot be used ({{kind}}: {{error}}). Expected what jest_tf writes, schema "
        text += f"{SCHEMA}. Restore it, or import the model again."
        with explaining(kinds, text), open(path, encoding="utf-8") as file:
            return cls._from_json(parse_json(file.read()))

    @classmethod
    def _from_json(cls, content: dict[str, Any]) -> "ModelRecord":
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r}")
        text, pixels = content["tokenizer"], content["pixels"]
        if pixels["resize"] not in RESIZES or pixels["range"] != RANGE or not text["sticky_end"]:
            raise ValueError(f"pixels {pixels}, sticky_end {text['sticky_end']}")
        rule = TokenizerRule(
            int(text["pad_id"]), bool(text["lower"]), bool(text["canonicalize"]),
            tuple(map(int, text["kept_ids"])),
        )  # fmt: skip
        size, kept = int(pixels["size"]), int(pixels["crop"])
        return cls(
            sizes=dict(content["sizes"]),
            vocabulary=os.path.basename(text["file"]),
            fingerprint=str(text["fingerprint"]),
            end_id=int(text["end_id"]),
            n_tokens=int(text["length"]),
            image_size=kept,
            tokenizer=rule,
            pixels=PixelRule(pixels["resize"], bool(pixels["antialias"]), size - kept),
        )
