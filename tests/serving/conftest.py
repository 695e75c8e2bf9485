"""A small model with random weights, and its export, shared by the tests of this folder."""

import pytest

from jest_tf.data.tokenizer import Tokenizer
from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig
from jest_tf.serving.saved_model import export_dual_encoder

WORDS = ["[PAD]", "[UNK]", "[EOS]", "a", "red", "blue", "dog", "square", "##s"]
IMAGE_SIZE, DECODE_SIZE = 16, 24


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n")
    return Tokenizer(str(path), 6)


def small_model(tokenizer, seed=0):
    tower = {"width": 16, "depth": 1, "heads": 2, "mlp_dim": 32}
    config = DualEncoderConfig.from_variant(
        "mu", image_size=IMAGE_SIZE, n_tokens=6, vocab_size=tokenizer.vocab_size, embed_dim=8,
        image=tower, text=tower,
    )  # fmt: skip
    return DualEncoder(config, seed=seed)


@pytest.fixture(scope="session")
def model(tokenizer):
    return small_model(tokenizer)


@pytest.fixture(scope="session")
def export(model, tokenizer, tmp_path_factory):
    """Path of the export of `model`."""
    path = str(tmp_path_factory.mktemp("exports") / "export")
    export_dual_encoder(model, tokenizer, IMAGE_SIZE, path, {"name": "small"}, DECODE_SIZE)
    return path
