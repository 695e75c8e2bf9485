"""A model in memory and an export with one interface (`evaluation.base.Encoder`)."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401 - registers the ops inside an export

from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError, explaining
from jest_tf.files import parse_json
from jest_tf.model_record import PixelRule
from jest_tf.models.dual_encoder import DualEncoder
from jest_tf.serving import safe_load, saved_model


def on_one_device(encode: Callable[[tf.Tensor], tf.Tensor]) -> Callable[..., np.ndarray]:
    """`encode` of rows as a program; `Runtime.by_rows` shares the rows among replicas instead."""
    program = tf.function(encode, reduce_retracing=True, autograph=False)
    return lambda rows: program(tf.convert_to_tensor(rows)).numpy()


class ModelEncoder:
    """A DualEncoder in memory. Reads the weights at every call, so it follows the training.

    image_size: side in pixels at which images enter the model. decode_size: see
    `export_dual_encoder`. description: model, checkpoint, step; and its cost ledger. by_rows: see
    `on_one_device`.
    """

    def __init__(
        self,
        model: DualEncoder,
        tokenizer: Tokenizer,
        image_size: int,
        decode_size: int,
        description: dict[str, Any],
        by_rows: Callable = on_one_device,
    ):
        self.decode_size, self.pixels = decode_size, model.pixels
        how = saved_model.preprocessing(image_size, decode_size, tokenizer, model.pixels)
        self.description = description | {"preprocessing": how}
        self.encode_image, self._encode_tokens = towers(model, image_size, by_rows)
        # Strings stay on the host.
        self._tokenize = tf.function(tokenizer, reduce_retracing=True, autograph=False)

    def encode_text(self, texts: list[str]) -> np.ndarray:
        return self._encode_tokens(self._tokenize(tf.constant(texts, tf.string)))


def towers(model: DualEncoder, image_size: int, by_rows: Callable = on_one_device) -> tuple:
    """uint8 [n, S, S, 3] -> zimg [n, d], and tokens int32 [n, L] -> ztxt [n, d]."""
    return (
        by_rows(lambda images: saved_model.encode_pixels(model, images, image_size)),
        by_rows(lambda tokens: model.encode_text(tokens)),
    )


class ExportEncoder:
    """The export at `path`; UserError: none that loads. by_rows: see `on_one_device`."""

    def __init__(self, path: str, by_rows: Callable = on_one_device):
        self.path = path.rstrip("/")
        self.info = read_info(self.path)
        self._model = model = safe_load.load(self.path)  # its variables live as long
        self._encode_image, self._encode_text, self._encode_bytes = map(
            by_rows, (model.encode_image, model.encode_text, model.encode_image_bytes)
        )
        self.decode_size = self.info["decode_size"]
        self.pixels = PixelRule(**self.info.get("pixels", {}))  # older exports name none
        self.fingerprint = self.info["fingerprint"]
        metadata = self.info["metadata"]
        self.description = {
            "model": metadata.get("name", "dual encoder"),
            "checkpoint": metadata.get("checkpoint"),
            "step": metadata.get("step"),
            "export": self.path,
            "fingerprint": self.fingerprint,
            "preprocessing": self.info["preprocessing"],
        }

    @classmethod
    def on_all(cls, path: str, runtime) -> "ExportEncoder":
        """The same on all replicas of a `runtime.strategy.Runtime`, loaded in its scope."""
        with runtime.strategy.scope():
            return cls(path, functools.partial(runtime.by_rows, compiled=False))

    def encode_image(self, images: np.ndarray) -> np.ndarray:
        return self._finite(self._encode_image(images))

    def encode_text(self, texts: list[str]) -> np.ndarray:
        for text in texts:
            with explaining(UnicodeEncodeError, f"the text {text[:80]!r} is no Unicode: {{error}}"):
                text.encode()
        return self._finite(self._encode_text(tf.constant(texts, tf.string)))

    def encode_image_bytes(self, encoded: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """n image files -> float32 [n, d] and bool [n]: whether the file was a picture."""
        zimg = self._finite(self._encode_bytes(tf.constant(encoded, tf.string)))
        return zimg, zimg.any(axis=1)

    def _finite(self, z: np.ndarray) -> np.ndarray:
        if not np.isfinite(z).all():  # NaN would be found by every query, or by none
            raise UserError(
                f"the model in {self.path} gives embeddings that are not finite: it has diverged. "
                "Export an earlier checkpoint."
            )
        return z


def read_info(path: str) -> dict[str, Any]:
    """The content of an export's `model.json`; UserError: no export there."""
    text = f"{path} holds no exported model ({saved_model.INFO_FILE} cannot be read: {{error}}). "
    text += "Make one: python -m jest_tf.export --workdir=DIR --out=DIR/export"
    with (
        explaining((tf.errors.OpError, ValueError), text),
        tf.io.gfile.GFile(f"{path}/{saved_model.INFO_FILE}") as file,
    ):
        info = parse_json(file.read())
    if "format" not in info:
        raise UserError(
            f"{path} is no export, but perhaps a run. Make an export of it: python -m "
            f"jest_tf.export --workdir={path}"
        )
    if info["format"] != saved_model.FORMAT:
        raise UserError(f"{path} has export format {info['format']}: export the run again")
    return info
