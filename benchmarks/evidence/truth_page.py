"""The section of the page that tells what was picked, by the known noise of every row."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.evidence import picks
from benchmarks.evidence.analysis import RowResults, truth_of
from benchmarks.evidence.curves import Mean
from benchmarks.evidence.markdown import percent, table
from jest_tf.monitoring.labels import BROKEN

Rows = Mapping[str, RowResults]
Truth = tuple[str, Mapping[str, Mean]]  # a row's label, and what `truth_of` says of it


def truth_check(rows: Rows, pool: Mapping[str, Any], folder: str) -> str:
    """The section; empty where no row reads the pool."""
    found = [(row.row.label, truth) for row in rows.values() if (truth := truth_of(row, pool))]
    if not found:
        return ""
    return "\n\n".join(
        (
            "## What was picked: the truth check",
            "After warm-up, repeats included. *Broken*: shuffled, boilerplate, truncated or spoilt "
            "image. *Rejected*: loaded and not picked; of the broken rows, chance is the filter "
            "ratio. *Picks seen*: image and caption both stand in the curated set. Last two "
            "columns: distinct rows, and distinct concepts (an image whoever drew it, in any skin "
            "tone), whole run.",
            _kinds(found, pool),
            "Of the broken rows of each kind, how many were rejected:",
            _rejected(found),
            f"![kinds of rows among the picks]({folder}/picked.png)",
            f"![distinct rows, concepts and picks seen]({folder}/distinct.png)",
        )
    )


def _kinds(found: Sequence[Truth], pool: Mapping[str, Any]) -> str:
    columns = {
        "clean": "clean",
        "broken": "broken",
        "icon": "icon",
        "duplicate": "duplicate",
        "foreign": "foreign",
        "broken_rejected": "broken rows rejected",
        "rejected_precision": "broken among the rejected",
        "pair_seen": "picks seen",
        "image_seen": "images seen",
    }
    blind = {**pool["shares"], "clean": picks.clean(pool), "broken": picks.broken(pool)}
    blind |= {key: pool[key] for key in ("pair_seen", "image_seen")}
    cells = [f"{100 * blind[key]:.1f}" if key in blind else "-" for key in columns]
    body = [["*the pool*", *cells, f"{pool['distinct']:,}", f"{pool['concepts']:,}"]]
    for label, truth in found:
        cells = [percent(truth[key]) if key in truth else "-" for key in columns]
        counts = [f"{truth[key].mean:,.0f}" for key in ("distinct", "concepts")]
        body.append([label, *cells, *counts])
    return table(["row", *columns.values(), "rows", "concepts"], body)


def _rejected(found: Sequence[Truth]) -> str:
    kinds = sorted(BROKEN)
    body = []
    for label, truth in found:
        if "filter_ratio" in truth:
            shares = [truth.get(f"{kind}_rejected") for kind in kinds]
            cells = [percent(share) if share else "-" for share in shares]
            body.append([label, f"{100 * truth['filter_ratio'].mean:.0f}", *cells])
    return table(["row", "by chance", *kinds], body)
