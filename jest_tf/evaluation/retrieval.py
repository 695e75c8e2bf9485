"""Image-text retrieval from embeddings: recall at k and median rank, both ways.

Scores are computed in blocks of queries: memory is O(block · n_candidates).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jest_tf.errors import UserError
from jest_tf.evaluation.base import SAME_SCORE, Evaluation, Reader, require_finite

TIE_RULE = (
    "The rank of a query is 1 + the number of candidates that are no positives of it and score at "
    f"least as high as its best positive, to {SAME_SCORE:g}: a tie counts against the model."
)

# 64 MB of float32 scores: fits caches poorly but BLAS well; smaller blocks were slower.
_BLOCK_SCORES = 16 * 1024 * 1024


CAPTION_RULES = {
    "string": (
        "The texts are the distinct caption strings. An image's positives are all of its captions; "
        "a text's positives are all images that carry this caption."
    ),
    "image": (
        "The texts are all captions, repeated strings included. A text's one positive is the image "
        "that it was written for (the COCO and Flickr30k rule)."
    ),
}


class Positives(NamedTuple):
    """Pairs of image i and text j, int64 [n_pairs] each, without repetition, sorted by image."""

    image: np.ndarray
    text: np.ndarray
    n_images: int
    n_texts: int


def positives_from_captions(
    captions: Sequence[Sequence[str]], rule: str = "string"
) -> tuple[list[str], Positives]:
    """The texts, by first appearance, and their pairs with the images, by CAPTION_RULES."""
    if rule not in CAPTION_RULES:
        raise UserError(f"caption rule {rule!r} is unknown; choose one of {sorted(CAPTION_RULES)}")
    images = np.repeat(np.arange(len(captions)), [len(c) for c in captions])
    written = [caption for of_image in captions for caption in of_image]
    if rule == "image":
        return written, Positives(images, np.arange(len(written)), len(captions), len(written))
    index: dict[str, int] = {}
    texts = np.array([index.setdefault(caption, len(index)) for caption in written], np.int64)
    pairs = np.unique(np.stack([images, texts], axis=1).reshape(-1, 2), axis=0)
    return list(index), Positives(pairs[:, 0], pairs[:, 1], len(captions), len(index))


def best_positive_ranks(
    queries: np.ndarray,
    candidates: np.ndarray,
    query_index: np.ndarray,
    candidate_index: np.ndarray,
    block_scores: int = _BLOCK_SCORES,
) -> np.ndarray:
    """int64 [q]: rank, from 1, of the best-scoring positive of every query (ties: see TIE_RULE).

    queries [q, d], candidates [c, d]: float32, scored by dot products, `block_scores` at once.
    query_index, candidate_index: [n_pairs], the positives; every query has one (ValueError).
    UserError: an embedding that is not finite.
    """
    require_finite(queries)
    require_finite(candidates)
    order = np.argsort(query_index, kind="stable")
    query_index, candidate_index = query_index[order], candidate_index[order]
    n_queries = len(queries)
    without = np.setdiff1d(np.arange(n_queries), query_index)
    if without.size:
        raise ValueError(f"{without.size} queries have no positive; the first is {without[0]}")
    ranks = np.empty(n_queries, np.int64)
    block = max(1, block_scores // max(1, len(candidates)))
    for start in range(0, n_queries, block):
        stop = min(start + block, n_queries)
        scores = queries[start:stop] @ candidates.T  # [block, c]
        pairs = slice(*np.searchsorted(query_index, [start, stop]))
        rows, columns = query_index[pairs] - start, candidate_index[pairs]
        best = np.full(stop - start, -np.inf, scores.dtype)
        np.maximum.at(best, rows, scores[rows, columns])
        scores[rows, columns] = -np.inf
        ranks[start:stop] = 1 + np.count_nonzero(scores >= best[:, None] - SAME_SCORE, axis=1)
    return ranks


def retrieval_metrics(zimg: np.ndarray, ztxt: np.ndarray, positives: Positives) -> dict[str, float]:
    """Retrieval both ways among all images and all texts given, unit-norm float32 [n, d].

    A text without an image is a candidate but no query, and so is an image without a text.
    `image_to_text/recall@k`, `text_to_image/recall@k`, `…/median_rank`, `…/n_queries`. ValueError:
    the positives do not fit. UserError: not finite, or no positive pair at all.
    """
    if (len(zimg), len(ztxt)) != (positives.n_images, positives.n_texts):
        raise ValueError(
            f"positives speak of {positives.n_images} images and {positives.n_texts} texts, "
            f"the embeddings are of {len(zimg)} and {len(ztxt)}"
        )
    if not len(positives.image):
        raise UserError("retrieval: no image has a caption, so there is nothing to measure")
    directions = {
        "image_to_text": (zimg, ztxt, positives.image, positives.text),
        "text_to_image": (ztxt, zimg, positives.text, positives.image),
    }
    metrics = {}
    for name, (queries, candidates, query_index, candidate_index) in directions.items():
        asked, query_index = np.unique(query_index, return_inverse=True)
        ranks = best_positive_ranks(queries[asked], candidates, query_index, candidate_index)
        metrics |= {f"{name}/recall@{k}": float(np.mean(ranks <= k)) for k in (1, 5, 10)}
        metrics |= {f"{name}/median_rank": float(np.median(ranks)), f"{name}/n_queries": len(ranks)}
    return metrics


class Retrieval(Evaluation):
    """Finds the text of an image and the image of a text among all of a data set."""

    options = {"caption_rule": "string", "batch_size": 256}
    headlines = ("image_to_text/recall@1", "text_to_image/recall@1")
    task = "zeroshot_retrieval"

    def check(self, name: str, options: Mapping[str, Any]) -> None:
        if options["caption_rule"] not in CAPTION_RULES:
            raise UserError(
                f"evals.{name}.caption_rule is {options['caption_rule']!r}; expected one of "
                f"{', '.join(CAPTION_RULES)}"
            )

    def measure(self, source: str, options: Mapping[str, Any], reader: Reader) -> tuple[dict, dict]:
        found = reader.embed(source)
        if not any(found.captions):
            raise UserError(f"{source} has no captions: a retrieval evaluation cannot use it")
        texts, positives = positives_from_captions(found.captions, options["caption_rule"])
        metrics = retrieval_metrics(found.zimg, reader.embed_texts(texts), positives)
        reader.read["evaluated"]["n_texts"] = len(texts)
        return metrics, {"captions": CAPTION_RULES[options["caption_rule"]], "ties": TIE_RULE}
