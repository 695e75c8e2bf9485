"""Retrieval metrics against closed forms, a per-query loop and scikit-learn."""

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from jest_tf.errors import UserError
from jest_tf.evaluation.retrieval import (
    Positives,
    best_positive_ranks,
    positives_from_captions,
    retrieval_metrics,
)


def positives_from_groups(image_groups: np.ndarray, text_groups: np.ndarray) -> Positives:
    """Pairs every image [n_images] with every text [n_texts] of the same group id."""
    image_groups, text_groups = np.asarray(image_groups), np.asarray(text_groups)
    order = np.argsort(text_groups, kind="stable")
    first = np.searchsorted(text_groups[order], image_groups, side="left")
    last = np.searchsorted(text_groups[order], image_groups, side="right")
    images = np.repeat(np.arange(len(image_groups)), last - first)
    texts = [order[a:b] for a, b in zip(first, last, strict=True)]
    texts = np.concatenate(texts) if texts else np.zeros(0, np.int64)
    return Positives(images, texts.astype(np.int64), len(image_groups), len(text_groups))


def unit(rng, n, d):
    z = rng.standard_normal((n, d)).astype(np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def slow_rank(query, candidates, positive):
    """One query at a time: sort everything, positives last among equals, and look for the first."""
    scores = candidates @ query
    order = sorted(range(len(candidates)), key=lambda j: (-scores[j], j in positive))
    return 1 + next(place for place, j in enumerate(order) if j in positive)


def test_one_to_one_equals_scikit_learn():
    rng = np.random.default_rng(0)
    zimg = unit(rng, 60, 8)
    ztxt = zimg + 0.8 * unit(rng, 60, 8)
    pairs = positives_from_groups(np.arange(60), np.arange(60))
    found = retrieval_metrics(zimg, ztxt, pairs)
    for k in (1, 5, 10):
        truth = top_k_accuracy_score(np.arange(60), zimg @ ztxt.T, k=k)
        assert found[f"image_to_text/recall@{k}"] == pytest.approx(truth)
        truth = top_k_accuracy_score(np.arange(60), ztxt @ zimg.T, k=k)
        assert found[f"text_to_image/recall@{k}"] == pytest.approx(truth)


def test_several_positives_equal_a_slow_loop_whatever_the_block_size():
    rng = np.random.default_rng(1)
    image_groups = rng.integers(0, 12, 40)
    text_groups = np.concatenate([np.arange(12), rng.integers(0, 12, 21)])
    # Few distinct values, so that ties are common; their products are exact in float32.
    zimg = rng.integers(-1, 2, (40, 4)).astype(np.float32)
    ztxt = rng.integers(-1, 2, (33, 4)).astype(np.float32)
    pairs = positives_from_groups(image_groups, text_groups)
    truth = [
        slow_rank(zimg[i], ztxt, set(np.flatnonzero(text_groups == image_groups[i])))
        for i in range(40)
    ]
    for block_scores in (1, 100, 10**6):
        ranks = best_positive_ranks(zimg, ztxt, pairs.image, pairs.text, block_scores)
        assert ranks.tolist() == truth


def test_scores_that_differ_by_rounding_are_a_tie():
    """Libraries round equal products differently; here the other one is the lower by one step."""
    queries = np.float32([[1, 0], [0, 1]])
    candidates = np.float32([[1, 0], [1 - 2**-24, 0], [0, 1], [0, 1 - 2**-18]])
    ranks = best_positive_ranks(queries, candidates, np.arange(2), np.array([0, 2]))
    assert ranks.tolist() == [2, 1]


def test_a_model_that_has_collapsed_to_one_point_gets_0():
    rng = np.random.default_rng(1)
    for n in (31, 257, 1003):  # sizes that no block of a matmul divides
        zimg, ztxt = (np.tile(unit(rng, 1, 64), (n, 1)) for _ in range(2))
        found = retrieval_metrics(zimg, ztxt, positives_from_groups(np.arange(n), np.arange(n)))
        for way in ("image_to_text", "text_to_image"):
            assert found[f"{way}/recall@10"] == 0 and found[f"{way}/median_rank"] == n


def test_closed_forms():
    eye = np.eye(6, dtype=np.float32)
    pairs = positives_from_groups(np.arange(6), np.arange(6))
    perfect = retrieval_metrics(eye, eye, pairs)
    assert perfect["image_to_text/recall@1"] == perfect["text_to_image/recall@1"] == 1.0
    assert perfect["image_to_text/median_rank"] == 1.0
    shifted = retrieval_metrics(eye, np.roll(eye, 1, axis=0), pairs)
    assert shifted["image_to_text/recall@1"] == 0.0
    # Its own text scores 0 like four others, and the wrong one scores 1: last of six.
    assert shifted["image_to_text/median_rank"] == 6.0


def test_a_collapsed_model_is_not_rewarded():
    same = np.tile(np.float32([[1, 0]]), (20, 1))
    found = retrieval_metrics(same, same, positives_from_groups(np.arange(20), np.arange(20)))
    assert found["image_to_text/recall@10"] == 0.0
    assert found["text_to_image/median_rank"] == 20.0


def test_shared_caption_string_is_right_for_every_image_that_has_it():
    captions = [["a dog"], ["a cat"], ["a dog"]]
    texts, pairs = positives_from_captions(captions, "string")
    assert texts == ["a dog", "a cat"]
    assert list(zip(pairs.image, pairs.text, strict=True)) == [(0, 0), (1, 1), (2, 0)]
    zimg = np.float32([[1, 0], [0, 1], [0.9, 0.1]])
    ztxt = np.float32([[1, 0], [0, 1]])
    found = retrieval_metrics(zimg, ztxt, pairs)
    assert found["image_to_text/recall@1"] == found["text_to_image/recall@1"] == 1.0
    assert found["image_to_text/n_queries"] == 3 and found["text_to_image/n_queries"] == 2


def test_image_rule_keeps_repeated_strings_apart():
    texts, pairs = positives_from_captions([["x", "y"], ["x", "z"]], "image")
    assert texts == ["x", "y", "x", "z"]
    assert pairs.image.tolist() == [0, 0, 1, 1] and pairs.text.tolist() == [0, 1, 2, 3]


def test_string_rule_counts_a_caption_given_twice_to_one_image_once():
    texts, pairs = positives_from_captions([["x", "x", "y"]], "string")
    assert texts == ["x", "y"] and pairs.text.tolist() == [0, 1]


def test_five_captions_an_image_as_in_coco():
    rng = np.random.default_rng(2)
    zimg, ztxt = unit(rng, 30, 6), unit(rng, 150, 6)
    owner = np.repeat(np.arange(30), 5)
    found = retrieval_metrics(zimg, ztxt, positives_from_groups(np.arange(30), owner))
    scores = zimg @ ztxt.T
    for k in (1, 5, 10):
        top_texts = np.argsort(-scores, axis=1)[:, :k]
        hit = (owner[top_texts] == np.arange(30)[:, None]).any(axis=1)
        assert found[f"image_to_text/recall@{k}"] == pytest.approx(hit.mean())
        top_images = np.argsort(-scores.T, axis=1)[:, :k]
        hit = (top_images == owner[:, None]).any(axis=1)
        assert found[f"text_to_image/recall@{k}"] == pytest.approx(hit.mean())


def test_memory_is_that_of_a_block():
    rng = np.random.default_rng(3)
    zimg, ztxt = unit(rng, 1000, 4), unit(rng, 5000, 4)
    pairs = positives_from_groups(np.arange(1000), np.repeat(np.arange(1000), 5))
    block_scores = 200_000
    tracemalloc.start()
    best_positive_ranks(zimg, ztxt, pairs.image, pairs.text, block_scores)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Scores in float32 and their comparison; all scores at once would be 25 blocks.
    assert peak < 3 * 4 * block_scores


def test_a_text_without_image_is_a_distractor_and_no_query():
    pairs = positives_from_groups(np.array([0]), np.array([0, 7]))
    found = retrieval_metrics(np.float32([[1, 0]]), np.float32([[0.5, 0], [1, 0]]), pairs)
    assert found["image_to_text/recall@1"] == 0.0
    assert found["text_to_image/n_queries"] == 1


def test_wrong_inputs_are_refused():
    eye = np.eye(2, dtype=np.float32)
    broken = eye.copy()
    broken[1] = np.nan
    pairs = positives_from_groups(np.arange(2), np.arange(2))
    with pytest.raises(UserError, match="1 of 2 embeddings are not finite"):
        retrieval_metrics(eye, broken, pairs)
    with pytest.raises(ValueError, match="2 images and 2 texts"):
        retrieval_metrics(eye, eye[:1], pairs)
    with pytest.raises(UserError, match="'sentence' is unknown"):
        positives_from_captions([["a"]], "sentence")
    empty = Positives(np.zeros(0, int), np.zeros(0, int), 2, 2)
    with pytest.raises(UserError, match="nothing to measure"):
        retrieval_metrics(eye, eye, empty)
