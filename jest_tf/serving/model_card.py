"""The page that goes with an exported model: what it is, what it saw, what it cost, what it can."""

from collections.abc import Mapping
from typing import Any

_USE = """```python
import tensorflow as tf
import tensorflow_text  # registers the tokenizer's ops

model = tf.saved_model.load("{path}")
ztxt = model.encode_text(tf.constant(["a red apple"]))  # float32 [1, {d}], unit norm
zimg = model.encode_image_bytes(tf.constant([open("a.png", "rb").read()]))
similarity = tf.matmul(zimg, ztxt, transpose_b=True)
```"""
_NOT_STATED = "Not stated."


def model_card(info: Mapping[str, Any]) -> str:
    """Markdown from the content of `model.json`.

    Of `info["metadata"]` it reads, where present: `name`, `data`, `selection`, `training`, `cost`
    (each a flat dict), `scores` (results of evaluations), `licences` and `limits` (lists of text),
    `checkpoint`, `environment`.
    """
    meta = info["metadata"]
    sections = {
        "Model": _table(_model_rows(info)),
        "Use": _USE.format(path="DIR", d=info["embed_dim"]),
        "Data": _table(meta.get("data")),
        "Selection policy": _table(meta.get("selection")),
        "Training": _table(meta.get("training")),
        "Cost": _table(meta.get("cost")),
        "Scores": _scores(meta.get("scores") or []),
        "Licences": _bullets(meta.get("licences")),
        "Limits": _bullets(meta.get("limits")),
        "Environment": _table(meta.get("environment")),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"# Model card: {meta.get('name', 'dual encoder')}\n\n{body}\n"


def _model_rows(info: Mapping[str, Any]) -> dict[str, Any]:
    a = info["architecture"]
    return {
        "fingerprint": info["fingerprint"],
        "checkpoint": info["metadata"].get("checkpoint", _NOT_STATED),
        "parameters": f"{info['n_parameters']:,}",
        "image tower": f"{_tower(a['image'])}, patch {a['patch_size']}, {info['image_size']} px",
        "text tower": f"{_tower(a['text'])}, {a['n_tokens']} tokens of {a['vocab_size']:,}",
        "embedding": f"{info['embed_dim']} float32, unit norm",
        "logits": f"{info['scale']:.4g} · cosine {info['bias']:+.4g}",
        "image preprocessing": info["preprocessing"]["image"],
        "text preprocessing": info["preprocessing"]["text"],
    }


def _tower(tower: Mapping[str, int]) -> str:
    return f"width {tower['width']}, depth {tower['depth']}, {tower['heads']} heads"


def _scores(results: list[Mapping[str, Any]]) -> str:
    if not results:
        return "Not evaluated."
    lines = ["| evaluation | data | metric | value |", "|---|---|---|---|"]
    for result in results:
        for metric, value in result["metrics"].items():
            lines.append(f"| {result['name']} | {result['dataset']} | {metric} | {_show(value)} |")
    rules = {r: None for result in results for r in result.get("rules", {}).values()}
    return "\n".join(lines) + "\n\n" + _bullets(list(rules))


def _table(rows: Mapping[str, Any] | None) -> str:
    if not rows:
        return _NOT_STATED
    lines = [f"| {key} | {_show(value)} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _bullets(lines: list[str] | None) -> str:
    return "\n".join(f"- {_show(line)}" for line in lines) if lines else _NOT_STATED


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e6 else f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")
