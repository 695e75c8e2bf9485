"""A small model with random weights, and its export: what the tests of serving start from."""

import pathlib

from jest_tf.data.tokenizer import Tokenizer
from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig
from jest_tf.serving.saved_model import export_dual_encoder

WORDS = ["[PAD]", "[UNK]", "[EOS]", "a", "red", "blue", "dog", "square", "##s"]
IMAGE_SIZE, DECODE_SIZE = 16, 24


def small_tokenizer(folder: pathlib.Path) -> Tokenizer:
    path = folder / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n")
    return Tokenizer(str(path), 6)


def small_model(tokenizer: Tokenizer, seed: int = 0, dtype: str = "float32") -> DualEncoder:
    tower = {"width": 16, "depth": 1, "heads": 2, "mlp_dim": 32}
    config = DualEncoderConfig.from_variant(
        "mu", image_size=IMAGE_SIZE, n_tokens=6, vocab_size=tokenizer.vocab_size, embed_dim=8,
        image=tower, text=tower,
    )  # fmt: skip
    return DualEncoder(config, seed=seed, dtype=dtype)


def small_export(folder: pathlib.Path, seed: int = 0) -> str:
    """Path of an export with random weights, made below `folder`."""
    tokenizer = small_tokenizer(folder)
    path = str(folder / f"export-{seed}")
    metadata = {"name": "small"}
    export_dual_encoder(
        small_model(tokenizer, seed), tokenizer, IMAGE_SIZE, path, metadata, DECODE_SIZE
    )
    return path
