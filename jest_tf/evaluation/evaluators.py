"""One evaluation = one named spec: measures a model on a data set, and says how.

    spec = {"kind": "retrieval", "data": "data/mine"}
    result = run_evaluation("retrieval", spec, encoder)

The result is JSON-serialisable: `metrics` (flat), and what one must know to compare them: `data`
(what was read, how many, how many skipped), `rules`, `model`, `checkpoint`, `step`,
`preprocessing`.
"""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jest_tf.data.evaluation_data import EvaluationData, class_texts
from jest_tf.data.sources import open_source
from jest_tf.errors import UserError
from jest_tf.evaluation.base import Encoder, Reader
from jest_tf.evaluation.kinds import KINDS

COMMON = ("kind", "data", "every_steps")


def run_evaluation(
    name: str,
    spec: Mapping[str, Any],
    encoder: Encoder,
    data_dir: str | None = None,
    passes: dict | None = None,
) -> dict[str, Any]:
    """Runs one evaluation: `kind` and `data` of the spec, and the options of that kind.

    passes: give the evaluations of one step the same dict: each data set is embedded once.
    UserError: an unknown kind or option, data that cannot be read, or a diverged model.
    """
    started = time.monotonic()
    options = checked_options(name, spec)
    evaluation = KINDS[spec["kind"]]
    reader = Reader(encoder, options["batch_size"], data_dir, passes)
    metrics, rules = evaluation.measure(spec["data"], options, reader)
    return {
        "name": name,
        "kind": spec["kind"],
        "task": evaluation.task,
        "dataset": spec["data"],
        "options": options,
        "metrics": metrics,
        "data": reader.read,
        "rules": rules,
        **encoder.description,
        "seconds": round(time.monotonic() - started, 2),
    }


def checked_options(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a spec with defaults; UserError: no data, an unknown kind, a wrong option."""
    if not name or "/" in name:
        raise UserError(f"evals: {name!r} names a file of results: expected a name without /")
    if not isinstance(spec, Mapping | ConfigDict):
        raise UserError(f"evals.{name} is {spec!r}; expected {{kind, data, …}}")
    kind = spec.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"evals.{name}.kind is {kind!r}; expected one of {', '.join(KINDS)}")
    if not spec.get("data"):
        raise UserError(
            f"evals.{name}.data is empty; give tfds:NAME[/CONFIG][:SPLIT] or a manifest"
        )
    evaluation = KINDS[kind]
    defaults = {"batch_size": 256} | evaluation.options
    unknown = [key for key in spec if key not in defaults and key not in COMMON]
    if unknown:
        raise UserError(
            f"evals.{name}.{unknown[0]} is unknown; a {kind} evaluation takes {', '.join(defaults)}"
        )
    options = defaults | {key: spec[key] for key in defaults if key in spec}
    for key, value in (options | {"data": spec["data"]}).items():
        if expected := _expected_instead(value, defaults.get(key, "")):
            raise UserError(f"evals.{name}.{key} is {value!r}; expected {expected}")
    evaluation.check(name, options)
    return options


def _expected_instead(value: Any, default: Any) -> str:
    """What an option with this default takes; empty if the value is such."""
    if isinstance(default, str):
        return "" if isinstance(value, str) else "a text"
    if not isinstance(default, tuple):
        return "" if type(value) is int and value > 0 else "a whole number from 1"
    fits = isinstance(value, list | tuple) and all(
        type(number) is int and number >= min(default) for number in value
    )
    return "" if fits and value else f"a list of whole numbers from {min(default)}"


def asked(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a spec asks for, in the words of a result: kind, dataset and all options."""
    # Through JSON: a tuple equals the list that was read from the file.
    options = json.loads(json.dumps(checked_options(name, spec)))
    return {"kind": spec["kind"], "dataset": spec["data"], "options": options}


def is_result_of(
    result: Mapping[str, Any], name: str, spec: Mapping[str, Any], data_dir: str | None = None
) -> bool:
    """Whether a stored result is what this spec would measure: same options, same data now."""
    return asked(name, spec).items() <= result.items() and all(
        open_source(read["source"], data_dir).fingerprint == read["fingerprint"]
        for read in result["data"].values()
    )


def require_data(name: str, spec: Mapping[str, Any], data_dir: str | None = None) -> None:
    """Opens what an evaluation will read: what is missing is told before a model is built.

    UserError: data that cannot be read or lack classes, sources that number their classes
    differently, or two roles that are the same data.
    """
    options = checked_options(name, spec)
    options["data"] = spec["data"]
    roles: dict[str, str] = {}  # fingerprint -> role
    sources = []
    for role in ("data", "train", "validation"):
        if not (source := options.get(role)):
            continue
        manifest = open_source(source, data_dir)
        sources += manifest.sources
        without = [part.name for part in manifest.sources if not part.label]
        if KINDS[spec["kind"]].needs_labels and without:
            raise UserError(
                f"evals.{name}: {spec['kind']} needs the class of every record, and {source} "
                f"({role}) has none (source {without[0]!r}). `jest prepare` stores classes from a "
                "column or a .cls file (docs/your_data.md), or leave this evaluation out."
            )
        if (other := roles.setdefault(manifest.fingerprint, role)) != role:
            raise UserError(
                f"evals.{name}: {other} and {role} are the same data ({source}): the score would "
                "be of pairs that were learned or chosen on. Give each a part of its own, such as "
                "tfds:NAME:train[:90%], or another prepared folder."
            )
    if KINDS[spec["kind"]].needs_labels:
        try:
            class_texts(sources)
        except UserError as error:
            raise UserError(f"evals.{name}: {error}") from error


def headlines(specs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Names of the numbers by which models are compared first: `eval/NAME/METRIC`."""
    for name, spec in specs.items():
        for metric in KINDS[spec["kind"]].headlines:
            yield f"eval/{name}/{metric}"


# More would not fit into the one picture that the projector takes, 64 px each.
MAX_POINTS = 16_384


def projection(
    source: str, encoder: Encoder, data_dir: str | None = None, batch_size: int = 256
) -> tuple[np.ndarray, dict[str, list[str]], np.ndarray]:
    """(zimg [n, d], title -> n texts, images uint8 [n, S, S, 3]) of the first MAX_POINTS."""
    data = EvaluationData(open_source(source, data_dir), encoder.decode_size, encoder.pixels)
    zimg, images, captions, labels = [], [], [], []
    for batch in data.batches(batch_size):
        zimg.append(encoder.encode_image(batch.images))
        images.append(batch.images)
        captions += [" | ".join(of_image) for of_image in batch.captions]
        labels += [data.label_texts[i] if 0 <= i < len(data.label_texts) else str(i)
                   for i in batch.labels.tolist()]  # fmt: skip
        if len(captions) >= MAX_POINTS:
            break
    if not captions:
        raise UserError(f"{source}: not one of {data.n_skipped} pictures could be decoded")
    columns = {"captions": captions, "label": labels}
    shown = {title: texts[:MAX_POINTS] for title, texts in columns.items() if len(set(texts)) > 1}
    z, pictures = (np.concatenate(parts)[:MAX_POINTS] for parts in (zimg, images))
    return z, shown or {"captions": captions[:MAX_POINTS]}, pictures
