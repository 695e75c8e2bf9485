"""Which images and texts belong together, by a named rule that travels with the result.

Retrieval numbers differ by several points by whether a caption that several images share is right
for all of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jest_tf.errors import UserError

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
