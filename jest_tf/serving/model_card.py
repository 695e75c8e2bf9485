"""The page that goes with an exported model: what it is, what it saw, what it cost, what it can."""

from collections.abc import Mapping
from typing import Any

import jinja2


def model_card(info: Mapping[str, Any]) -> str:
    """Markdown from the content of `model.json`.

    Of `info["metadata"]` it reads, where present: `name`, `data`, `selection`, `training`, `cost`
    (each a flat dict), `scores` (results of evaluations), `licences` and `limits` (lists of text),
    `checkpoint`, `environment`.
    """
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("jest_tf"), autoescape=False, trim_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    env.filters["shown"] = _shown
    meta = info["metadata"]
    results = meta.get("scores") or []
    rules = {r: None for result in results for r in result.get("rules", {}).values()}
    card = env.get_template("model_card.md.j2").render(info, meta=meta, rules=list(rules))
    return card.strip() + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e6 else f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")
