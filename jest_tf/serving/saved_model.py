"""A dual encoder as a SavedModel that takes raw text and raw images.

Whoever loads it needs tensorflow and tensorflow_text, and nothing of this package:

    import tensorflow as tf
    import tensorflow_text  # registers the tokenizer's ops
    model = tf.saved_model.load("DIR")
    ztxt = model.encode_text(tf.constant(["a red apple"]))        # float32 [1, d], unit norm
    zimg = model.encode_image_bytes(tf.constant([open("a.jpg", "rb").read()]))
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jinja2
import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from jest_tf.data import preprocess
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError, explaining
from jest_tf.files import write_atomically
from jest_tf.model_record import PixelRule
from jest_tf.models.dual_encoder import DualEncoder
from jest_tf.progress import Counter

INFO_FILE, CARD_FILE = "model.json", "model_card.md"
FORMAT = 1
_XLA_MARK = "_XlaMustCompile"
ENDPOINTS = {
    "encode_image": "uint8 [n, h, w, 3] of any one size -> float32 [n, d], unit norm",
    "encode_image_bytes": "string [n], each a JPEG, PNG, GIF, BMP or WebP file -> float32 [n, d], "
    "unit norm; a row of zeros where the bytes are no picture",
    "encode_text": "string [n], UTF-8 -> float32 [n, d], unit norm",
    "scale_and_bias": "-> {scale, bias} float32 []: logits are scale * <zimg, ztxt> + bias",
}


def export_dual_encoder(
    model: DualEncoder,
    tokenizer: Tokenizer,
    image_size: int,
    path: str,
    metadata: Mapping[str, Any],
    decode_size: int | None = None,
) -> str:
    """Writes the SavedModel, `model.json` and `model_card.md` to `path`; returns the fingerprint.

    The export computes in float32 and replaces an older one; the fingerprint is 16 hex digits of
    weights, vocabulary and sizes. image_size: side in pixels at which images enter the model.
    metadata: JSON-serialisable; kept in `model.json`, and what `model_card` reads. decode_size:
    side to which image files are decoded before, as in training (`data.image_size`); by default
    `image_size`. UserError: `path` holds other files, or a weight is not finite.
    """
    path = path.rstrip("/")
    decode_size = decode_size or image_size
    # A workdir has a model.json too, and must never be taken for an older export.
    has_info, is_workdir = (tf.io.gfile.exists(f"{path}/{n}") for n in (INFO_FILE, "config.json"))
    is_export = has_info and not is_workdir
    is_empty = not tf.io.gfile.exists(path) or (
        tf.io.gfile.isdir(path) and not tf.io.gfile.listdir(path)
    )
    if not (is_export or is_empty):
        raise UserError(f"{path} is there and is no export of this program: give another --out")
    info = {
        "format": FORMAT,
        "fingerprint": fingerprint(model, tokenizer, image_size, decode_size),
        "embed_dim": model.config.embed_dim,
        "image_size": image_size,
        "decode_size": decode_size,
        "pixels": dataclasses.asdict(model.pixels),
        "scale": float(model.scale),
        "bias": float(tf.convert_to_tensor(model.bias)),
        "preprocessing": preprocessing(image_size, decode_size, tokenizer, model.pixels),
        "endpoints": ENDPOINTS,
        "architecture": dataclasses.asdict(model.config),
        "n_parameters": int(model.count_params()),
        "metadata": dict(metadata),
    }
    incomplete = f"{path}.incomplete"
    with explaining(tf.errors.OpError, f"{path} cannot be written: {{error}}. Give another --out."):
        _remove(incomplete)
        tf.io.gfile.makedirs(incomplete)  # before the minutes that the graphs take
    if model.compute_dtype != "float32":
        # bfloat16 outside XLA is slower on most servers, and gives other embeddings than training.
        copy = DualEncoder(model.config, dtype="float32", pixels=model.pixels)
        copy.set_weights(model.get_weights())
        model = copy
    _write_saved_model(model, tokenizer, image_size, decode_size, incomplete)
    write_atomically(f"{incomplete}/{INFO_FILE}", json.dumps(info, indent=1) + "\n")
    write_atomically(f"{incomplete}/{CARD_FILE}", model_card(info))
    _remove(path)
    tf.io.gfile.rename(incomplete, path)
    return info["fingerprint"]


def preprocessing(
    image_size: int, decode_size: int, tokenizer: Tokenizer, pixels: PixelRule
) -> dict[str, Any]:
    """What happens to an image and a text before the towers, in words and numbers."""
    lower = "lower-cased" if tokenizer.rule.lower else "lower-cased if WordPiece"
    canonical = ", without punctuation" if tokenizer.rule.canonicalize else ""
    return {
        "image": f"decoded to RGB, resized to {decode_size} px square ({pixels}, "
        f"aspect not kept, rounded to uint8), then to {image_size} px, scaled to [-1, 1]",
        "text": f"{lower}{canonical}, cut to {tokenizer.n_tokens} tokens with the end kept",
        "tokenizer": tokenizer.fingerprint,
    }


def fingerprint(model: DualEncoder, tokenizer: Tokenizer, image_size: int, decode_size: int) -> str:
    """16 hex digits that change with any weight, the text or pixel rule or a size."""
    digest = hashlib.sha256(f"{tokenizer.fingerprint} {image_size} {decode_size}".encode())
    digest.update(str(model.pixels).encode() if model.pixels != PixelRule() else b"")
    for variable in sorted(model.weights, key=lambda v: v.path):
        value = keras.ops.convert_to_numpy(variable)
        if not tf.reduce_all(tf.math.is_finite(value)):
            raise UserError(f"weight {variable.path} is not finite: export an earlier checkpoint")
        digest.update(variable.path.encode())
        digest.update(value.tobytes())
    return digest.hexdigest()[:16]


def encode_pixels(
    model: DualEncoder, images: tf.Tensor, image_size: int, is_decoded: bool = True
) -> tf.Tensor:
    """uint8 [n, h, w, 3] -> zimg float32 [n, d].

    `is_decoded`: `preprocess.decode` made them, without margin. Else pictures of any size.
    """
    if is_decoded:  # a form that XLA compiles
        images = tf.clip_by_value(preprocess.resize(images, image_size, model.pixels), 0.0, 255.0)
    else:
        images = preprocess.fit_decoded(images, image_size, model.pixels)
    return model.encode_image(preprocess.to_model_range(images))


def _write_saved_model(
    model: DualEncoder, tokenizer: Tokenizer, image_size: int, decode_size: int, path: str
) -> None:
    def encode_image(images):
        return encode_pixels(model, images, image_size, is_decoded=False)

    def encode_image_bytes(encoded):
        images, ok = preprocess.decode_all(encoded, decode_size, model.pixels)
        return encode_pixels(model, images, image_size) * tf.cast(ok, tf.float32)[:, None]

    def encode_text(texts):
        return model.encode_text(tokenizer(texts))

    def scale_and_bias():
        return {"scale": model.scale, "bias": tf.convert_to_tensor(model.bias)}

    endpoints = {
        encode_image: [tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")],
        encode_image_bytes: [tf.TensorSpec([None], tf.string, name="encoded")],
        encode_text: [tf.TensorSpec([None], tf.string, name="texts")],
        scale_and_bias: [],
    }
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.track(tokenizer)
    counter = Counter("export", len(endpoints) + 1, "parts")
    for endpoint, signature in endpoints.items():  # tracing takes most of the time
        archive.add_endpoint(endpoint.__name__, endpoint, signature)
        counter.add()
    archive.write_out(path, verbose=False)
    counter.add()
    _without_xla(f"{path}/saved_model.pb")
    # The graph holds the vocabulary in its own form; the file itself is for people and other tools.
    extra = f"{path}/assets.extra"
    tf.io.gfile.makedirs(extra)
    name = tokenizer.vocab_path.rpartition("/")[2]
    tf.io.gfile.copy(tokenizer.vocab_path, f"{extra}/{name}")


def _without_xla(graph_file: str) -> None:
    """Lets the towers' compiled kernels run as plain ops.

    XLA compiles anew for every batch size: a server of one to a hundred texts stalls as often.
    """
    with tf.io.gfile.GFile(graph_file, "rb") as file:
        saved = saved_model_pb2.SavedModel.FromString(file.read())
    for meta_graph in saved.meta_graphs:
        for function in meta_graph.graph_def.library.function:
            function.attr.pop(_XLA_MARK, None)
            for node in function.node_def:
                node.attr.pop(_XLA_MARK, None)
    with tf.io.gfile.GFile(graph_file, "wb") as file:
        file.write(saved.SerializeToString(deterministic=True))


def _remove(path: str) -> None:
    if tf.io.gfile.exists(path):
        tf.io.gfile.rmtree(path)


def model_card(info: Mapping[str, Any]) -> str:
    """Markdown from the content of `model.json`.

    Of `info["metadata"]` it reads, where present: `name`, `data`, `selection`, `training`, `cost`
    (each a flat dict), `scores` (results of evaluations), `licences` and `limits` (lists of text),
    `checkpoint`, `environment`.
    """
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("jest_tf"), autoescape=False, trim_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    env.filters["shown"] = _shown
    meta = info["metadata"]
    results = meta.get("scores") or []
    rules = {r: None for result in results for r in result.get("rules", {}).values()}
    card = env.get_template("model_card.md.j2").render(info, meta=meta, rules=list(rules))
    return card.strip() + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e6 else f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")
