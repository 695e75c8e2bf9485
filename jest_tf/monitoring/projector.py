"""Embeddings as TensorBoard's projector shows them: points with names and little pictures.

    FOLDER/projector_config.pbtxt  embeddings.tsv (d numbers a line)  metadata.tsv  sprite.png

The projector shows a folder only when it is itself the --logdir.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector import ProjectorConfig

# The projector draws one texture of at most 8,192 pixels a side.
SPRITE_SIDE = 8192
THUMBNAIL = 64


def write_projector(
    folder: str | os.PathLike,
    name: str,
    embeddings: np.ndarray,
    columns: Mapping[str, Sequence[str]],
    images: np.ndarray,
) -> Path:
    """Writes one tensor of the projector, replacing what was there; returns the folder.

    embeddings: [n, d]. columns: title -> n texts, one at least. images: uint8 [n, h, h, 3].
    """
    lengths = {len(embeddings), len(images), *map(len, columns.values())}
    if len(lengths) != 1:
        raise ValueError(f"projector {name}: one row per point everywhere, got {sorted(lengths)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(f"{x:.6g}" for x in row) for row in embeddings]
    (folder / "embeddings.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    cells = zip(*columns.values(), strict=True)
    rows = [[" ".join(str(cell).split()) for cell in row] for row in cells]
    # A single column has no title line, as the projector wants it.
    rows = [list(columns)] * (len(columns) > 1) + rows
    text = "\n".join("\t".join(row) for row in rows) + "\n"
    (folder / "metadata.tsv").write_text(text, encoding="utf-8")
    per_row = int(np.ceil(np.sqrt(len(images))))
    side = max(1, min(THUMBNAIL, SPRITE_SIDE // per_row))
    sprite = Image.new("RGB", (per_row * side, per_row * side), "white")
    for i, image in enumerate(images):
        tile = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
        sprite.paste(tile, (i % per_row * side, i // per_row * side))
    sprite.save(folder / "sprite.png")
    config = ProjectorConfig()
    tensor = config.embeddings.add()
    tensor.tensor_name = name
    tensor.tensor_path, tensor.metadata_path = "embeddings.tsv", "metadata.tsv"
    tensor.sprite.image_path = "sprite.png"
    tensor.sprite.single_image_dim.extend([side, side])
    text = text_format.MessageToString(config)
    (folder / "projector_config.pbtxt").write_text(text, encoding="utf-8")
    return folder
