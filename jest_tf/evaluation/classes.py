"""Class names and prompt templates of a zero-shot evaluation; ImageNet's: imagenet.json."""

import pathlib
import re
from collections.abc import Sequence

import tensorflow as tf

from jest_tf.errors import UserError
from jest_tf.files import parse_json

IMAGENET = parse_json(pathlib.Path(__file__).with_name("imagenet.json").read_text("utf-8"))
TEMPLATES = {"name": ("{}",), "photo": ("a photo of a {}.",)}
TEMPLATES["imagenet"] = tuple(IMAGENET["templates"])
_SYNSET = re.compile(r"n\d{8}")


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
            return [entry.get("prompt") or entry["name"] for entry in content]
        return content
    if not label_texts or all(text.isdigit() or _SYNSET.fullmatch(text) for text in label_texts):
        raise UserError(
            "the data set does not say what its labels mean; give class names: "
            "evals.NAME.classes = 'imagenet' or the path of a JSON list in label order"
        )
    return list(label_texts)


def _read_list(path: str, what: str) -> list:
    try:
        with tf.io.gfile.GFile(path) as file:
            content = parse_json(file.read())
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(
            f"{what} {path!r}: neither a known name nor a JSON file ({error})"
        ) from error
    kinds = {type(entry) for entry in content} if isinstance(content, list) else set()
    if len(kinds) != 1 or not kinds <= {str, dict, list}:
        raise UserError(f"{what} {path}: expected a JSON list of texts (or of {{name, prompt}})")
    return content
