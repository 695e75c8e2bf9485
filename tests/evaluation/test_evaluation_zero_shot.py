"""Zero-shot metrics against closed forms and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from jest_tf.errors import UserError
from jest_tf.evaluation.zero_shot import class_embeddings, classification_metrics, expand_prompts


def test_metrics_equal_scikit_learn():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((200, 9)).astype(np.float32)
    labels = rng.integers(0, 9, 200)
    scores[np.arange(200), labels] += 1.0
    found = classification_metrics(scores, labels)
    assert found["top1"] == pytest.approx(np.mean(scores.argmax(1) == labels))
    assert found["top5"] == pytest.approx(top_k_accuracy_score(labels, scores, k=5))
    assert found["mean_per_class"] == pytest.approx(
        balanced_accuracy_score(labels, scores.argmax(1))
    )


def test_classes_without_examples_do_not_count():
    scores = np.float32([[1, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]])
    found = classification_metrics(scores, np.array([0, 0, 2, 2]))
    assert found["mean_per_class"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["top1"] == 0.75
    assert "top5" not in found


def test_a_tie_counts_against_the_model():
    assert classification_metrics(np.zeros((4, 8), np.float32), np.arange(4))["top5"] == 0.0
    by_rounding = np.float32([[1, 1 - 2**-24], [0, 1]])
    assert classification_metrics(by_rounding, np.array([0, 1]))["top1"] == 0.5


def test_class_embedding_is_the_renormalised_mean_of_its_prompts_over_any_batching():
    rng = np.random.default_rng(1)
    prompts = [["a", "b", "c"], ["d"], ["e", "f"]]
    table = {p: rng.standard_normal(5) for of_class in prompts for p in of_class}
    table = {p: (z / np.linalg.norm(z)).astype(np.float32) for p, z in table.items()}
    truth = np.stack([np.mean([table[p] for p in ps], axis=0) for ps in prompts])
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    for batch_size in (1, 2, 100):
        found = class_embeddings(lambda t: np.stack([table[s] for s in t]), prompts, batch_size)
        np.testing.assert_allclose(found, truth, atol=1e-6)
        assert found.dtype == np.float32


def test_templates():
    filled = expand_prompts(["dog", "cat"], ["a photo of a {}.", "{}"])
    assert filled == [["a photo of a dog.", "dog"], ["a photo of a cat.", "cat"]]
    with pytest.raises(UserError, match="exactly once"):
        expand_prompts(["dog"], ["a photo"])


def test_wrong_inputs_are_refused():
    with pytest.raises(UserError, match="labels run from 0 to 3, but there are 3"):
        classification_metrics(np.zeros((2, 3), np.float32), np.array([0, 3]))
    with pytest.raises(UserError, match="no prompt"):
        class_embeddings(lambda t: np.ones((len(t), 2)), [["a"], []])
    with pytest.raises(UserError, match="diverged"):
        classification_metrics(np.full((1, 2), np.nan, np.float32), np.array([0]))
