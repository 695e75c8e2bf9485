"""Few-shot linear probe: ridge regression on k images per class (the protocol of big_vision).

Features are standardised by the shots, a large constant column is the bias (hardly regularised),
targets are one-hot in {-1, +1}. One eigen-decomposition serves every l2 value.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jest_tf.errors import UserError
from jest_tf.evaluation.base import Embedded, Evaluation, Reader

BIAS_FEATURE = 100.0
DEFAULT_L2 = tuple(2.0**i for i in range(-10, 21, 2))
SELECTION_RULE = (
    "l2 is the value with the best accuracy on the validation split, averaged over the seeds (the "
    "smallest of equals); the test split is read once, with that value."
)


class Split(NamedTuple):
    """Features float32 [n, d] and labels integer [n]."""

    features: np.ndarray
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> "Split":
        return Split(self.features[rows], self.labels[rows])


class PartlyEmbedded(NamedTuple):
    """A split of which only some records were embedded; `labels` integer [n] are of all."""

    embedded: Embedded
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> Split:
        """Those of the records that could be read."""
        order = np.argsort(self.embedded.rows)  # they come source by source
        place = np.searchsorted(self.embedded.rows, rows, sorter=order)
        place = order[np.minimum(place, len(order) - 1)]
        place = place[self.embedded.rows[place] == rows]
        return Split(self.embedded.zimg[place], self.embedded.labels[place])


class RidgeProbe:
    """Ridge regression of one-hot labels on standardised features, for any l2."""

    def __init__(self, train: Split, n_classes: int):
        features = np.asarray(train.features, np.float64)
        self._mean = features.mean(axis=0, keepdims=True)
        self._std = features.std(axis=0, keepdims=True) + 1e-5
        x = self._standardise(features)  # [n, d + 1]
        y = 2.0 * np.eye(n_classes)[train.labels] - 1.0  # [n, n_classes]
        # (xᵀx + l2)⁻¹ xᵀy = xᵀ(xxᵀ + l2)⁻¹ y: decompose the smaller Gram matrix.
        if x.shape[0] >= x.shape[1]:
            self._eigenvalues, q = np.linalg.eigh(x.T @ x)
            self._left, self._right = q, q.T @ (x.T @ y)
        else:
            self._eigenvalues, q = np.linalg.eigh(x @ x.T)
            self._left, self._right = x.T @ q, q.T @ y

    def weights(self, l2: float) -> np.ndarray:
        """[d + 1, n_classes]; the last row multiplies the constant feature BIAS_FEATURE."""
        return (self._left / (self._eigenvalues + l2)) @ self._right

    def accuracy(self, split: Split, l2: float) -> float:
        """Share of `split` whose highest prediction is its label."""
        predictions = self._standardise(split.features) @ self.weights(l2)
        return float(np.mean(predictions.argmax(axis=1) == split.labels))

    def _standardise(self, features: np.ndarray) -> np.ndarray:
        x = (features - self._mean) / self._std
        return np.pad(x, ((0, 0), (0, 1)), constant_values=BIAS_FEATURE)


def few_shot_metrics(
    train: Split | PartlyEmbedded,
    validation: Split,
    test: Split,
    n_classes: int,
    shots: Sequence[int] = (1, 5, 10),
    l2_values: Sequence[float] = DEFAULT_L2,
    seeds: Sequence[int] = (0, 1, 2),
) -> dict[str, float]:
    """Accuracy of k-shot probes; the shots are drawn from `train`, SELECTION_RULE picks l2.

    For each k: `{k}shot/accuracy` (test, mean over seeds), `…/accuracy_std`,
    `…/validation_accuracy`, `…/l2` and `…/n_train` (mean number of shots). UserError: a split
    without examples, or a class in the test split without a single shot.
    """
    for name, split in (("train", train), ("validation", validation), ("test", test)):
        if not len(split.labels):
            raise UserError(f"few-shot probe: the {name} split holds no example")
    unseen = np.setdiff1d(test.labels, train.labels)
    if unseen.size:
        raise UserError(f"few-shot probe: {unseen.size} test classes have no shot: {unseen[:5]}")
    metrics = {}
    for k in shots:
        drawn = [train.take(draw_shots(train.labels, n_classes, k, seed)) for seed in seeds]
        probes = [RidgeProbe(split, n_classes) for split in drawn]
        by_l2 = [np.mean([p.accuracy(validation, l2) for p in probes]) for l2 in l2_values]
        l2 = l2_values[int(np.argmax(by_l2))]
        accuracies = [p.accuracy(test, l2) for p in probes]
        metrics |= {
            f"{k}shot/accuracy": float(np.mean(accuracies)),
            f"{k}shot/accuracy_std": float(np.std(accuracies)),
            f"{k}shot/validation_accuracy": float(max(by_l2)),
            f"{k}shot/l2": float(l2),
            f"{k}shot/n_train": float(np.mean([len(split.labels) for split in drawn])),
        }
    return metrics


def draw_shots(labels: np.ndarray, n_classes: int, k: int, seed: int) -> np.ndarray:
    """Rows of at most k examples of every class, among them those of any smaller k."""
    rng = np.random.default_rng(seed)
    by_class = [rng.permutation(np.flatnonzero(labels == c))[:k] for c in range(n_classes)]
    return np.concatenate(by_class)


class FewShot(Evaluation):
    """A linear probe of a few labelled images per class."""

    options = {"train": "", "validation": "", "shots": (1, 5, 10), "seeds": (0, 1, 2)}
    headlines = ("10shot/accuracy",)
    task = "linear_probe"
    needs_labels = True

    def check(self, name: str, options: Mapping[str, Any]) -> None:
        if not (options["train"] and options["validation"]):
            raise UserError(
                f"evals.{name} needs `train` (where the shots come from) and `validation` (where "
                "l2 is chosen), each as `data`; slices such as tfds:NAME:train[:90%] keep them "
                "apart"
            )

    def measure(self, source: str, options: Mapping[str, Any], reader: Reader) -> tuple[dict, dict]:
        validation = reader.embed_labelled(options["validation"], "validation")
        test = reader.embed_labelled(source)
        labels = reader.labels(options["train"])
        if (labels < 0).all():
            raise UserError(f"{options['train']} has no labels: no shots can be drawn from it")
        n_classes = 1 + max(int(s.max()) for s in (labels, validation.labels, test.labels))
        shots, seeds = tuple(options["shots"]), tuple(options["seeds"])
        drawn, labels = _embed_shots(reader, options["train"], labels, n_classes, shots, seeds)
        metrics = few_shot_metrics(
            PartlyEmbedded(drawn, labels),
            Split(validation.zimg, validation.labels),
            Split(test.zimg, test.labels),
            n_classes, shots, seeds=seeds,
        )  # fmt: skip
        features = "The features are the unit-norm image embeddings."
        return metrics, {"l2": SELECTION_RULE, "features": features}


def _embed_shots(
    reader: Reader, source: str, labels: np.ndarray, n_classes: int, shots: tuple, seeds: tuple
) -> tuple[Embedded, np.ndarray]:
    """The shots of all seeds, embedded, and all labels, -1 where a drawn picture is unreadable."""
    n_skipped = 0
    while True:
        rows = [draw_shots(labels, n_classes, max(shots), seed) for seed in seeds]
        rows = np.unique(np.concatenate(rows))
        drawn = reader.embed(source, "train", rows)
        lost = np.setdiff1d(rows, drawn.rows)
        n_skipped += lost.size
        if not lost.size:
            reader.read["train"]["n_skipped"] = n_skipped
            return drawn, labels
        labels[lost] = -1
