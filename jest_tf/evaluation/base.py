"""What every evaluation is made of: the class to derive from, the model and the data it reads."""

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from jest_tf.data.evaluation_data import EvaluationData
from jest_tf.data.sources import open_source
from jest_tf.errors import UserError
from jest_tf.model_record import PixelRule
from jest_tf.progress import Counter

# Scores of unit vectors that differ by less are a tie: a library rounds equal products differently
# by their place in a matmul, by up to 2.4e-7.
SAME_SCORE = 1e-6


class Encoder(Protocol):
    """A model to evaluate.

    decode_size, pixels: side of the images that `encode_image` expects, and how they are resized.
    description: {model, checkpoint, step, fingerprint, preprocessing} and, of a run, its cost.
    """

    decode_size: int
    pixels: PixelRule
    description: dict[str, Any]

    def encode_image(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, S, S, 3] -> float32 [n, d], unit norm."""

    def encode_text(self, texts: list[str]) -> np.ndarray:
        """n strings -> float32 [n, d], unit norm."""


class Embedded(NamedTuple):
    """A data set in file order."""

    zimg: np.ndarray  # float32 [n, d]
    captions: list[list[str]]  # of each image
    labels: np.ndarray  # int64 [n], -1: none
    label_texts: tuple[str, ...]  # in label order
    rows: np.ndarray  # int64 [n], record numbers


class Reader:
    """Embeds data sets for one evaluation, and keeps account of what was read.

    passes: embedded data sets that evaluations of the same step share. read: role -> source,
    fingerprint, and how many examples were read and skipped.
    """

    def __init__(
        self, encoder: Encoder, batch_size: int, data_dir: str | None, passes: dict | None = None
    ):
        self.encoder, self.batch_size, self.data_dir = encoder, batch_size, data_dir
        self.read: dict[str, Any] = {}
        self._passes = {} if passes is None else passes

    def embed(
        self, source: str, role: str = "evaluated", rows: np.ndarray | None = None
    ) -> Embedded:
        """A whole data set, or the records `rows` (ascending) of it."""
        data = self._open(source)
        key = data.manifest.fingerprint, self.batch_size
        found = self._passes.get(key) if rows is None else None
        embedded, n_skipped = found or (self._embed(data, rows), data.n_skipped)
        if rows is None:
            self._passes[key] = embedded, n_skipped
        self.read[role] = {
            "source": source,
            "resolved": data.manifest.name,
            "fingerprint": data.manifest.fingerprint,
            "n_examples": len(embedded.zimg),
            "n_skipped": n_skipped,
        }
        return embedded

    def embed_labelled(self, source: str, role: str = "evaluated") -> Embedded:
        """The records of a data set that have a label; the others are counted.

        UserError: none has one.
        """
        found = self.embed(source, role)
        kept = np.flatnonzero(found.labels >= 0)
        if not kept.size:
            raise UserError(f"{source} has no labels: this kind of evaluation cannot use it")
        self.read[role]["n_unlabelled"] = len(found.labels) - len(kept)
        captions = [found.captions[i] for i in kept]
        return Embedded(
            found.zimg[kept], captions, found.labels[kept], found.label_texts, found.rows[kept]
        )

    def labels(self, source: str) -> np.ndarray:
        """int64 [n]: the label of every record, -1 where it has none; no picture is decoded."""
        return self._open(source).labels()

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """float32 [n, d]."""
        parts = [texts[i : i + self.batch_size] for i in range(0, len(texts), self.batch_size)]
        with Counter("embedding texts", len(parts), "batches") as counter:
            return np.concatenate([self.encode_text(part) for part in counter.over(parts)])

    def encode_text(self, texts: list[str]) -> np.ndarray:
        """At most `batch_size` texts -> float32 [n, d]."""
        padded = texts + [""] * (self.batch_size - len(texts))
        return self.encoder.encode_text(padded)[: len(texts)]

    def _open(self, source: str) -> EvaluationData:
        manifest = open_source(source, self.data_dir)
        return EvaluationData(manifest, self.encoder.decode_size, self.encoder.pixels)

    def _embed(self, data: EvaluationData, rows: np.ndarray | None) -> Embedded:
        zimg, captions, labels, kept = [], [], [], []
        n = data.manifest.n_records if rows is None else len(rows)
        with Counter(f"embedding {data.manifest.name}", n, "pictures") as counter:
            for batch in data.batches(self.batch_size, rows):
                zimg.append(self._encode_image(batch.images))
                captions += batch.captions
                labels.append(batch.labels)
                kept.append(batch.rows)
                counter.add(len(batch.rows))
        if not sum(map(len, zimg)):
            raise UserError(
                f"{data.manifest.name}: not one of {data.n_skipped} pictures could be decoded"
            )
        z, of_each, numbers = (np.concatenate(parts) for parts in (zimg, labels, kept))
        require_finite(z)
        return Embedded(z, captions, of_each, data.label_texts, numbers)

    def _encode_image(self, images: np.ndarray) -> np.ndarray:
        """On exactly `batch_size` rows: one compiled program on every device."""
        n = len(images)
        padding = [(0, self.batch_size - n)] + [(0, 0)] * (images.ndim - 1)
        return self.encoder.encode_image(np.pad(images, padding))[:n]


def require_finite(embeddings: np.ndarray) -> None:
    """Raises UserError for embeddings [n, d] that are not finite."""
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if bad.size:  # A comparison with NaN is false, which would give such a row the best rank.
        raise UserError(
            f"{bad.size} of {len(embeddings)} embeddings are not finite (first row {bad[0]}): the "
            "model has diverged; evaluate an earlier checkpoint or train with a lower learning rate"
        )


class Evaluation(abc.ABC):
    """One kind of evaluation. Derive from it, and add the class to `jest_tf.evaluation.kinds`.

    options: besides `kind`, `data` and `every_steps`, with defaults. headlines: the metrics that
    tables begin with. task: CLIP_benchmark's name. needs_labels: every record must have a class.
    """

    options: dict[str, Any] = {"batch_size": 256}
    headlines: tuple[str, ...] = ()
    task: str = ""
    needs_labels: bool = False

    def check(self, name: str, options: Mapping[str, Any]) -> None:  # noqa: B027 - most need none
        """Raises UserError where the options of `evals.NAME` cannot work."""

    @abc.abstractmethod
    def measure(
        self, source: str, options: Mapping[str, Any], reader: Reader
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Metrics, and the rules that one must know to compare them with others'."""
