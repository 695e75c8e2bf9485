"""One evaluation = one named spec: measures a model on a data set, and says how.

    spec = {"kind": "retrieval", "data": "tfds:emoji_captions/eval_retrieval:test"}
    result = run_evaluation("retrieval", spec, encoder)

The result is a JSON-serialisable dict: `metrics` (flat), and all that one must know to compare the
numbers with others: `data` (what was read, how many, how many skipped), `rules` (captions, ties,
templates, choice of l2), `model`, `checkpoint`, `step`, `preprocessing`.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jest_tf.data.sources import open_source
from jest_tf.errors import UserError
from jest_tf.evaluation import few_shot, retrieval, zero_shot
from jest_tf.evaluation.classes import class_prompts
from jest_tf.evaluation.datasets import EvaluationData
from jest_tf.evaluation.positives import CAPTION_RULES, positives_from_captions
from jest_tf.serving.encoders import Encoder

# Options of each kind with their defaults; `kind`, `data` and `every_steps` come with all of them.
OPTIONS: dict[str, dict[str, Any]] = {
    "retrieval": {"caption_rule": "string", "batch_size": 256},
    "zero_shot": {"classes": "", "templates": "", "batch_size": 256},
    "few_shot": {
        "train": "",
        "validation": "",
        "shots": (1, 5, 10),
        "seeds": (0, 1, 2),
        "batch_size": 256,
    },
}
COMMON = ("kind", "data", "every_steps")


def run_evaluation(
    name: str, spec: Mapping[str, Any], encoder: Encoder, data_dir: str | None = None
) -> dict[str, Any]:
    """Runs one evaluation.

    Args:
        name: how the result is called.
        spec: `kind` (a key of OPTIONS), `data` (`tfds:NAME[/CONFIG][:SPLIT]` or a manifest) and
            options of that kind.
        encoder: the model.
        data_dir: where TFDS sets are prepared.

    Raises:
        UserError: an unknown kind or option, data that cannot be read, or a diverged model.
    """
    started = time.monotonic()
    options = checked_options(name, spec)
    measure = {"retrieval": _retrieval, "zero_shot": _zero_shot, "few_shot": _few_shot}
    reader = _Reader(encoder, options["batch_size"], data_dir)
    metrics, rules = measure[spec["kind"]](spec["data"], options, reader)
    return {
        "name": name,
        "kind": spec["kind"],
        "dataset": spec["data"],
        "metrics": metrics,
        "data": reader.read,
        "rules": rules,
        **encoder.description,
        "seconds": round(time.monotonic() - started, 2),
    }


def checked_options(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a spec with defaults filled in.

    Raises:
        UserError: no data, an unknown kind, option or caption rule.
    """
    kind = spec.get("kind")
    if kind not in OPTIONS:
        raise UserError(f"evals.{name}.kind is {kind!r}; expected one of {', '.join(OPTIONS)}")
    if not spec.get("data"):
        raise UserError(
            f"evals.{name}.data is empty; give tfds:NAME[/CONFIG][:SPLIT] or a manifest"
        )
    unknown = [key for key in spec if key not in OPTIONS[kind] and key not in COMMON]
    if unknown:
        raise UserError(
            f"evals.{name}.{unknown[0]} is unknown; a {kind} evaluation takes "
            f"{', '.join(OPTIONS[kind])}"
        )
    options = OPTIONS[kind] | {key: spec[key] for key in OPTIONS[kind] if key in spec}
    if kind == "retrieval" and options["caption_rule"] not in CAPTION_RULES:
        raise UserError(
            f"evals.{name}.caption_rule is {options['caption_rule']!r}; expected one of "
            f"{', '.join(CAPTION_RULES)}"
        )
    if kind == "few_shot" and not (options["train"] and options["validation"]):
        raise UserError(
            f"evals.{name} needs `train` (where the shots come from) and `validation` (where l2 is "
            "chosen), each as `data`; slices such as tfds:NAME:train[:90%] keep them apart"
        )
    return options


class _Reader:
    """Embeds data sets and keeps account of what was read."""

    def __init__(self, encoder: Encoder, batch_size: int, data_dir: str | None):
        self.encoder, self.batch_size, self.data_dir = encoder, batch_size, data_dir
        self.read: dict[str, Any] = {}

    def embed(self, source: str, role: str = "evaluated"):
        """(zimg float32 [n, d], captions of each, labels int64 [n], label texts) of a data set."""
        data = EvaluationData(
            open_source(source, self.data_dir), self.encoder.decode_size, self.encoder.pixels
        )
        zimg, captions, labels = [], [], []
        for batch in data.batches(self.batch_size):
            zimg.append(_in_full_batches(self.encoder.encode_image, batch.images, self.batch_size))
            captions += batch.captions
            labels.append(batch.labels)
        self.read[role] = {
            "source": source,
            "resolved": data.manifest.name,
            "fingerprint": data.manifest.fingerprint,
            "n_examples": sum(len(z) for z in zimg),
            "n_skipped": data.n_skipped,
        }
        if not self.read[role]["n_examples"]:
            raise UserError(f"{source}: not one of {data.n_skipped} pictures could be decoded")
        return np.concatenate(zimg), captions, np.concatenate(labels), data.label_texts

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """float32 [n, d]."""
        parts = [texts[i : i + self.batch_size] for i in range(0, len(texts), self.batch_size)]
        return np.concatenate([self.encode_text(part) for part in parts])

    def encode_text(self, texts: list[str]) -> np.ndarray:
        """At most `batch_size` texts -> float32 [n, d]."""
        padded = texts + [""] * (self.batch_size - len(texts))
        return self.encoder.encode_text(padded)[: len(texts)]


def _in_full_batches(encode: Callable, images: np.ndarray, batch_size: int) -> np.ndarray:
    """`encode` on exactly `batch_size` rows: one compiled program on every device."""
    n = len(images)
    padding = [(0, batch_size - n)] + [(0, 0)] * (images.ndim - 1)
    return encode(np.pad(images, padding))[:n]


def _retrieval(source: str, options: Mapping[str, Any], reader: _Reader) -> tuple[dict, dict]:
    rule = options["caption_rule"]
    zimg, captions, _, _ = reader.embed(source)
    if not any(captions):
        raise UserError(f"{source} has no captions: a retrieval evaluation cannot use it")
    texts, positives = positives_from_captions(captions, rule)
    metrics = retrieval.retrieval_metrics(zimg, reader.embed_texts(texts), positives)
    reader.read["evaluated"]["n_texts"] = len(texts)
    return metrics, {"captions": CAPTION_RULES[rule], "ties": retrieval.TIE_RULE}


def _zero_shot(source: str, options: Mapping[str, Any], reader: _Reader) -> tuple[dict, dict]:
    zimg, _, labels, label_texts = reader.embed(source)
    if (labels < 0).all():
        raise UserError(f"{source} has no labels: a zero_shot evaluation cannot use it")
    prompts, prompt_rule = class_prompts(options["classes"], options["templates"], label_texts)
    ztxt = zero_shot.class_embeddings(reader.encode_text, prompts, reader.batch_size)
    metrics = zero_shot.classification_metrics(zimg @ ztxt.T, labels)
    reader.read["evaluated"]["n_classes"] = len(prompts)
    return metrics, {"prompts": prompt_rule, "ties": zero_shot.TIE_RULE}


def _few_shot(source: str, options: Mapping[str, Any], reader: _Reader) -> tuple[dict, dict]:
    sources = {"train": options["train"], "validation": options["validation"], "evaluated": source}
    splits = {}
    for role, of_role in sources.items():
        zimg, _, labels, _ = reader.embed(of_role, role)
        splits[role] = few_shot.Split(zimg, labels)
    if any((split.labels < 0).any() for split in splits.values()):
        raise UserError(f"{source}: a few_shot evaluation needs a label for every example")
    n_classes = 1 + max(int(split.labels.max()) for split in splits.values())
    metrics = few_shot.few_shot_metrics(
        *splits.values(), n_classes, tuple(options["shots"]), seeds=tuple(options["seeds"])
    )
    features = "The features are the unit-norm image embeddings."
    return metrics, {"l2": few_shot.SELECTION_RULE, "features": features}
