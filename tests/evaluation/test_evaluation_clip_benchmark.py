"""Metrics on saved embeddings against CLIP_benchmark 1.6.2 (see record_clip_benchmark.py)."""

import pathlib

import numpy as np
import pytest

from jest_tf.evaluation.retrieval import Positives, retrieval_metrics
from jest_tf.evaluation.zero_shot import class_embeddings, classification_metrics
from jest_tf.results import clip_benchmark_fields


@pytest.fixture(scope="module")
def theirs():
    with np.load(pathlib.Path(__file__).with_name("clip_benchmark.npz")) as arrays:
        return dict(arrays)


def under_their_names(kind: str, metrics: dict) -> dict:
    """As a result file holds them, which `clip_benchmark build` reads."""
    result = {
        "kind": kind,
        "task": "t",
        "dataset": "d",
        "model": "m",
        "checkpoint": "c",
        "metrics": metrics,
    }
    return clip_benchmark_fields(result)["metrics"]


def test_retrieval(theirs):
    n_images, n_texts = len(theirs["zimg"]), len(theirs["ztxt"])
    texts = np.arange(n_texts)
    pairs = Positives(texts // (n_texts // n_images), texts, n_images, n_texts)
    ours = retrieval_metrics(theirs["zimg"], theirs["ztxt"], pairs)
    named = under_their_names("retrieval", ours)
    for side in ("image", "text"):
        recalls = [named[f"{side}_retrieval_recall@{k}"] for k in (1, 5, 10)]
        expected = [float(theirs[f"{side}_retrieval_recall@{k}"]) for k in (1, 5, 10)]
        assert recalls == pytest.approx(expected, abs=1e-6)
        assert 0 < recalls[0] < recalls[1] < 1, "the case must tell the two from constants"


def test_zero_shot(theirs):
    prompts = theirs["prompts"]
    names = [[f"{c}/{t}" for t in range(prompts.shape[1])] for c in range(len(prompts))]

    def encode_text(texts):
        return np.stack([prompts[tuple(map(int, text.split("/")))] for text in texts])

    ztxt = class_embeddings(encode_text, names, batch_size=5)
    ours = classification_metrics(theirs["labelled_zimg"] @ ztxt.T, theirs["labels"])
    named = under_their_names("zero_shot", ours)
    for name in ("acc1", "acc5", "mean_per_class_recall"):
        assert named[name] == pytest.approx(float(theirs[name]), abs=1e-6)
        assert 0 < named[name] < 1
