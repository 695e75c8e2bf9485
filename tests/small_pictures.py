"""Small random pictures as files, and a model of a few lines that embeds them."""

import io
import pathlib
import zlib

import numpy as np
from PIL import Image


def write_pictures(folder: pathlib.Path, n: int, seed: int = 0) -> list[pathlib.Path]:
    """n PNGs of 30 x 20 pixels, in the order in which an index lists them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f"{i:03d}.png" for i in range(n)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    return paths


class SmallEncoder:
    """As `jest_tf.serving.encoders.ExportEncoder`: pixels and letters through a fixed matrix."""

    def __init__(self, seed: int = 0, dim: int = 8):
        self.path, self.fingerprint = f"model-{seed}", f"f{seed}"
        self.info = {"embed_dim": dim, "preprocessing": {}}
        self.description = {"model": "small"}
        self._matrix = np.random.default_rng(seed).standard_normal((5 * 5 * 3, dim))

    def encode_text(self, texts: list[str]) -> np.ndarray:
        seeds = [zlib.crc32(text.encode()) for text in texts]
        return self.unit([np.random.default_rng(seed).standard_normal(75) for seed in seeds])

    def encode_image_bytes(self, encoded: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        ok = np.array([bool(picture) for picture in encoded])
        pixels = np.zeros((len(encoded), 75))
        for i, picture in enumerate(encoded):
            try:
                small = Image.open(io.BytesIO(picture)).convert("RGB").resize((5, 5))
                pixels[i] = np.asarray(small, np.float64).ravel() - 127.5
            except OSError:
                ok[i] = False
        return self.unit(pixels) * ok[:, None], ok

    def unit(self, rows) -> np.ndarray:
        z = np.asarray(rows) @ self._matrix
        return (z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-9)).astype(np.float32)
