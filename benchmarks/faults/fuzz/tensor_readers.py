"""Readers whose work is done by TensorFlow: records, images, captions, vocabularies, exports."""

import functools
import io
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks.faults import tiny_run
from jest_tf.data.manifest import Manifest, Shard, Source
from jest_tf.data.pipeline import in_order
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError
from jest_tf.models.dual_encoder import DualEncoder, DualEncoderConfig
from jest_tf.serving.saved_model import export_dual_encoder

Read = Callable[[Sequence[bytes]], int]
SOURCE = Source("shapes", image="image", captions="caption", id="id")
BATCH = 256
SIDE = 16


def records(folder: pathlib.Path) -> Read:
    """Serialized examples, as training reads them: each keeps a slot, sound or not."""
    return functools.partial(_through_pipeline, folder)


def images(folder: pathlib.Path) -> Read:
    """Image bytes inside sound examples."""

    def read(inputs: Sequence[bytes]) -> int:
        serialized = [tiny_run.serialized_pair(i, data, b"a") for i, data in enumerate(inputs)]
        return _through_pipeline(folder, serialized)

    return read


def other_images() -> list[bytes]:
    """The formats that the tiny run does not hold, and a picture of many pixels."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8))
    encoded = []
    for kind in ("GIF", "BMP", "WEBP", "PNG", "JPEG"):
        out = io.BytesIO()
        (picture.resize((900, 700)) if kind == "PNG" else picture).save(out, kind)
        encoded.append(out.getvalue())
    return encoded


def _through_pipeline(folder: pathlib.Path, serialized: Sequence[bytes]) -> int:
    path = folder / "fuzzed.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in [*serialized, *[b""] * (BATCH - len(serialized))]:
            writer.write(record)
    (batch,) = _one_batch(str(folder))
    _require(batch["valid"].shape == (BATCH,), "a record lost its slot")
    _require(batch["image"].shape == (BATCH, SIDE, SIDE, 3), "images of another shape")
    return int(batch["valid"][: len(serialized)].numpy().sum())


@functools.cache
def _one_batch(folder: str) -> tf.data.Dataset:
    """The shipped pipeline over one file, whose content may change from call to call."""
    path = f"{folder}/fuzzed.tfrecord"
    manifest = Manifest("fuzzed", (SOURCE,), (Shard(path, BATCH),))
    return in_order(manifest, _tokenizer(folder), BATCH, image_size=SIDE)


def _tokenizer(folder: str) -> Tokenizer:
    path = pathlib.Path(folder) / "vocab.txt"
    path.write_text("\n".join(tiny_run.WORDS) + "\n")
    return Tokenizer(str(path), 8)


def record_file_seeds(folder: pathlib.Path) -> list[bytes]:
    path = folder / "seed.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i in range(4):
            writer.write(tiny_run.serialized_pair(i, *tiny_run.pair(i)))
    return [path.read_bytes()]


def record_files(folder: pathlib.Path) -> Read:
    """Whole TFRecord files with damaged framing: read to the damage, then one error of TensorFlow,
    which training retries and then reports."""
    path = folder / "file.tfrecord"
    file = tf.data.TFRecordDataset(str(path), buffer_size=1 << 20)

    def is_sound(data: bytes) -> bool:
        path.write_bytes(data)
        try:
            for _ in file:
                pass
        except tf.errors.OpError:
            return False
        return True

    return lambda inputs: sum(map(is_sound, inputs))


def captions(folder: pathlib.Path) -> Read:
    """Captions: any bytes give n_tokens ids of the vocabulary."""
    tokenizer = _tokenizer(str(folder))
    tokenize = tf.function(tokenizer, input_signature=[tf.TensorSpec([None], tf.string)])

    def read(inputs: Sequence[bytes]) -> int:
        tokens = tokenize(tf.constant(list(inputs), tf.string)).numpy()
        _require(tokens.shape == (len(inputs), tokenizer.n_tokens), "tokens of another shape")
        in_range = (tokens >= 0) & (tokens < tokenizer.vocab_size)
        _require(in_range.all(), "a token outside the vocabulary")
        return len(inputs)

    return read


def vocabulary_seeds(_folder: pathlib.Path) -> list[bytes]:
    """WordPiece vocabularies and a SentencePiece model."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([tiny_run.pair(i)[1].decode() for i in range(200)]),
        model_writer=model, vocab_size=40, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    words = ("\n".join(tiny_run.WORDS) + "\n").encode()
    return [words, b"[PAD]\n[UNK]\n[SEP]\na\n##a\n", model.getvalue()]


def vocabularies(folder: pathlib.Path) -> Read:
    """Every input as a WordPiece vocabulary and as a SentencePiece model: a tokenizer that works,
    or a UserError."""

    def works(path: pathlib.Path, data: bytes) -> bool:
        path.write_bytes(data)
        try:
            tokenizer = Tokenizer(str(path), 8)
        except UserError:
            return False
        tokens = tokenizer(tf.constant(["a red square", ""])).numpy()
        _require(tokens.shape == (2, 8), "tokens of another shape")
        return True

    def works_somehow(data: bytes) -> bool:
        as_each_kind = [works(folder / name, data) for name in ("fuzzed.txt", "fuzzed.model")]
        return any(as_each_kind)

    return lambda inputs: sum(map(works_somehow, inputs))


def export_inputs(folder: pathlib.Path) -> Read:
    """Image files and texts given to an exported model: unit embeddings, or zero rows."""
    tower = {"width": 16, "depth": 1, "heads": 2, "mlp_dim": 32}
    tokenizer = _tokenizer(str(folder))
    config = DualEncoderConfig.from_variant(
        "mu", image_size=SIDE, n_tokens=8, vocab_size=tokenizer.vocab_size, embed_dim=8,
        image=tower, text=tower,
    )  # fmt: skip
    path = str(folder / "export")
    export_dual_encoder(DualEncoder(config, seed=0), tokenizer, SIDE, path, {}, SIDE)
    model = tf.saved_model.load(path)

    def read(inputs: Sequence[bytes]) -> int:
        given = tf.constant(list(inputs), tf.string)
        image_norms, text_norms = (
            np.linalg.norm(encode(given).numpy(), axis=1)
            for encode in (model.encode_image_bytes, model.encode_text)
        )
        is_picture = np.abs(image_norms - 1) < 1e-3
        _require((is_picture | (image_norms == 0)).all(), f"image norms {image_norms}")
        _require((np.abs(text_norms - 1) < 1e-3).all(), f"text norms {text_norms}")
        return int(is_picture.sum())

    return read


def _require(holds: bool, finding: str) -> None:
    if not holds:
        raise AssertionError(finding)
