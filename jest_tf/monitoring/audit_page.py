"""audit.html: the shares of the verdicts, examples of each, and the pairs on their borders."""

import collections
import heapq
from collections.abc import Sequence

import numpy as np

from jest_tf.data.manifest import Manifest
from jest_tf.data.records import look_up
from jest_tf.monitoring.audit import picture_bytes, read_about, row_groups
from jest_tf.monitoring.verdicts import DUPLICATE, LEARNED, UNSEEN, USEFUL, WRONG
from jest_tf.pages.html import png_uri, render

SHOWN = 16  # pictures of each verdict, and on the border of two
MEANING = {
    WRONG: "Other pairs' texts and pictures fit better than their own.",
    LEARNED: "The learner fits the pair at least as well as the reference.",
    USEFUL: "Not wrong, and not yet learned as far as is known.",
    DUPLICATE: "Picture and caption are those of an earlier pair.",
    UNSEEN: "Never scored: not loaded, not readable, or the policy asks no model.",
}
NUMBERS = (
    "wrong_rank", "reference_rank", "reference_score", "learnability", "times_loaded",
    "times_selected",
)  # fmt: skip
COLUMNS = ("record", "key", "source", "caption", "verdict", "rule", "border", *NUMBERS)


def page(path: str, manifest: Manifest, generated: str) -> str:
    """The page about an audit's file. Pictures are read from the data set."""
    about = read_about(path)
    counts: dict[str, collections.Counter] = {}
    examples, border = {name: [] for name in MEANING}, []
    for table in row_groups(path):
        rows = table.select([n for n in COLUMNS if n in table.column_names]).to_pylist()
        for row in rows:
            row["kind"] = DUPLICATE if row["verdict"].startswith(DUPLICATE) else row["verdict"]
            counts.setdefault(row["source"], collections.Counter())[row["kind"]] += 1
        for name, kept in examples.items():
            here = [row for row in rows if row["kind"] == name]
            examples[name] = heapq.nsmallest(SHOWN, kept + here, lambda row: _draw(row["record"]))
        here = [row for row in rows if not np.isnan(row["border"])]
        border = heapq.nsmallest(SHOWN, border + here, lambda row: row["border"])
    total = sum(counts.values(), collections.Counter())
    groups = [(name, rows, MEANING[name]) for name, rows in examples.items()]
    groups.append(("On the border", border, "The pairs nearest to the thresholds."))
    return render(
        "audit.html.j2",
        title=f"Audit of {about['data_name']}",
        generated=generated,
        contents=["Shares", *(name for name, rows, _ in groups if rows)],
        about=about,
        total=total,
        counts=counts if len(counts) == 1 else counts | {"all": total},
        verdicts=list(MEANING),
        is_ranked=np.isfinite(about["threshold"]),
        groups=[(name, text, _cards(rows, manifest)) for name, rows, text in groups if rows],
    )


def _draw(record: int) -> int:
    """A number that looks drawn: examples come from everywhere, and are always the same."""
    return record * 0x9E3779B97F4A7C15 % 2**64


def _cards(rows: Sequence[dict], manifest: Manifest) -> list[dict]:
    cards = []
    for row, record in zip(rows, look_up(manifest, [r["record"] for r in rows]), strict=True):
        known = [n for n in NUMBERS if row.get(n) is not None and np.isfinite(row[n])]
        told = [f"{name.replace('_', ' ')} {row[name]:.3g}" for name in known]
        details = [row["verdict"] + ": " + row["rule"], ", ".join(told), row["key"]]
        picture = picture_bytes(record.image)
        cards.append({"image": png_uri(picture), "text": row["caption"][:200], "details": details})
    return cards
