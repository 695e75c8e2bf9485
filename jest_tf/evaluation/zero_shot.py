"""Zero-shot classification: a class is the mean of its prompts' text embeddings (CLIP, 3.1.4)."""

import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from jest_tf.errors import UserError, explaining
from jest_tf.evaluation.base import SAME_SCORE, Evaluation, Reader
from jest_tf.files import parse_json

# Class names and prompt templates of ImageNet.
IMAGENET = parse_json(pathlib.Path(__file__).with_name("imagenet.json").read_text("utf-8"))
TEMPLATES = {"name": ("{}",), "photo": ("a photo of a {}.",)}
TEMPLATES["imagenet"] = tuple(IMAGENET["templates"])
_SYNSET = re.compile(r"n\d{8}")
TIE_RULE = (
    "An example is right within k if fewer than k other classes score at least as high as its own, "
    f"to {SAME_SCORE:g}: a tie counts against the model."
)


def class_prompts(
    classes: str, templates: str, label_texts: tuple[str, ...]
) -> tuple[list[list[str]], str]:
    """Prompts of every class, in label order, and one sentence on where they come from.

    classes: `imagenet`, the path of a JSON list (of names, {name, prompt} objects, or lists of
    prompts), or empty: the texts of the data set's labels (`imagenet` for its 1,000 synsets).
    templates: a key of TEMPLATES or the path of a JSON list of templates with `{}`; empty:
    `imagenet` for ImageNet's classes, else `name`. UserError: no class names, or other files.
    """
    if not classes and len(label_texts) == 1000 and all(map(_SYNSET.fullmatch, label_texts)):
        classes = "imagenet"  # TFDS names ImageNet's labels by WordNet synset, in the same order
    names = _names(classes, label_texts)
    if label_texts and len(names) != len(label_texts):
        raise UserError(
            f"classes {classes!r} has {len(names)} entries, but the data set has "
            f"{len(label_texts)} labels: expected one entry for each, in this order: "
            f"{', '.join(label_texts[:5])}, …"
        )
    if isinstance(names[0], list):
        return names, f"{len(names)} lists of prompts from {classes}"
    templates = templates or ("imagenet" if classes == "imagenet" else "name")
    texts = TEMPLATES[templates] if templates in TEMPLATES else _read_list(templates, "templates")
    origin = classes or "the data set's label texts"
    rule = (
        f"{len(names)} class names from {origin}; a class is the renormalised mean of "
        f"{len(texts)} prompt embeddings (templates {templates!r}, the first {texts[0]!r})."
    )
    return expand_prompts(names, texts), rule


def expand_prompts(names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """[n_classes][n_templates]: every template filled; UserError: one without the place `{}`."""
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"prompt template {template!r} must hold {{}} exactly once")
    return [[template.replace("{}", name) for template in templates] for name in names]


def _names(classes: str, label_texts: tuple[str, ...]) -> list:
    if classes == "imagenet":
        return IMAGENET["names"]
    if classes:
        content = _read_list(classes, "classes")
        if isinstance(content[0], dict):
            content = [entry.get("prompt") or entry.get("name") for entry in content]
        for number, entry in enumerate(content):
            prompts = entry if isinstance(entry, list) else [entry]
            if not prompts or not all(isinstance(p, str) and p.strip() for p in prompts):
                raise UserError(
                    f"classes {classes}: entry {number} is {entry!r}; expected a text that is not "
                    "blank, or a list of such texts"
                )
        return content
    if not label_texts or all(text.isdigit() or _SYNSET.fullmatch(text) for text in label_texts):
        raise UserError(
            "the data set does not say what its labels mean; give class names: "
            "evals.NAME.classes = 'imagenet' or the path of a JSON list in label order"
        )
    return list(label_texts)


def _read_list(path: str, what: str) -> list:
    text = f"{what} {path!r}: neither a known name nor a JSON file ({{error}})"
    with explaining((tf.errors.OpError, ValueError), text), tf.io.gfile.GFile(path) as file:
        content = parse_json(file.read())
    kinds = {type(entry) for entry in content} if isinstance(content, list) else set()
    allowed = {str} if what == "templates" else {str, dict, list}
    if len(kinds) != 1 or not kinds <= allowed:
        raise UserError(f"{what} {path}: expected a JSON list of texts (or of {{name, prompt}})")
    return content


def class_embeddings(
    encode_text: Callable[[list[str]], np.ndarray],
    prompts: Sequence[Sequence[str]],
    batch_size: int = 256,
) -> np.ndarray:
    """Mean of the embeddings of each class's prompts, of unit norm: float32 [n_classes, d]."""
    counts = np.array([len(p) for p in prompts])
    if not counts.size or counts.min() == 0:
        raise UserError(f"class {int(counts.argmin()) if counts.size else 0} has no prompt")
    flat = [prompt for of_class in prompts for prompt in of_class]
    # A class's prompts may spread over two batches: sum by class index, batch after batch.
    owner = np.repeat(np.arange(len(prompts)), counts)
    sums = None
    for start in range(0, len(flat), batch_size):
        ztxt = np.asarray(encode_text(flat[start : start + batch_size]), np.float64)
        if sums is None:
            sums = np.zeros((len(prompts), ztxt.shape[1]))
        np.add.at(sums, owner[start : start + batch_size], ztxt)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return (sums / np.maximum(norms, 1e-12)).astype(np.float32)


def classification_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`top1`, `top5` and `mean_per_class` (mean top-1 over classes) of scores [n, n_classes].

    UserError: no example, a label outside the classes, or scores that are not finite.
    """
    labels = np.asarray(labels)
    n_classes = scores.shape[1]
    if not labels.size:
        raise UserError("zero-shot classification: the split holds no example")
    if labels.min() < 0 or labels.max() >= n_classes:
        raise UserError(
            f"labels run from {labels.min()} to {labels.max()}, but there are {n_classes} class "
            "names: give one name per label, in label order"
        )
    if not np.isfinite(scores).all():
        raise UserError("the class scores are not finite: the model has diverged")
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    ranks = np.count_nonzero(scores >= own - SAME_SCORE, axis=1)  # counts itself, so from 1
    metrics = {f"top{k}": float(np.mean(ranks <= k)) for k in (1, 5) if k <= n_classes}
    seen = np.bincount(labels, minlength=n_classes)
    hits = np.bincount(labels, weights=ranks == 1, minlength=n_classes)
    return metrics | {"mean_per_class": float(np.mean(hits[seen > 0] / seen[seen > 0]))}


class ZeroShot(Evaluation):
    """Classifies images by the texts of their classes."""

    options = {"classes": "", "templates": ""}
    headlines = ("top1",)
    task = "zeroshot_classification"
    needs_labels = True

    def measure(self, source: str, options: Mapping[str, Any], reader: Reader) -> tuple[dict, dict]:
        found = reader.embed_labelled(source)
        prompts, prompt_rule = class_prompts(
            options["classes"], options["templates"], found.label_texts
        )
        ztxt = class_embeddings(reader.encode_text, prompts, reader.batch_size)
        metrics = classification_metrics(found.zimg @ ztxt.T, found.labels)
        reader.read["evaluated"]["n_classes"] = len(prompts)
        return metrics, {"prompts": prompt_rule, "ties": TIE_RULE}
