"""audit.html: the shares of the verdicts, examples of each, and the pairs on their borders."""

import collections
from collections.abc import Callable, Sequence

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
    "wrong_rank",
    "reference_rank",
    "reference_score",
    "learnability",
    "times_loaded",
    "times_selected",
)
COLUMNS = ("record", "key", "source", "caption", "verdict", "rule", "border", *NUMBERS)


def page(path: str, manifest: Manifest, generated: str) -> str:
    """The page about an audit's file. Pictures are read from the data set."""
    about = read_about(path)
    counts: dict[str, collections.Counter] = {}
    examples = {name: _Kept(lambda row: _draw(row["record"])) for name in MEANING}
    border = _Kept(lambda row: row["border"])
    for table in row_groups(path):
        rows = table.select([n for n in COLUMNS if n in table.column_names]).to_pylist()
        for row in rows:
            row["kind"] = DUPLICATE if row["verdict"].startswith(DUPLICATE) else row["verdict"]
            counts.setdefault(row["source"], collections.Counter())[row["kind"]] += 1
            examples[row["kind"]].offer(row)
            border.offer(row)
    total = sum(counts.values(), collections.Counter())
    shares = [[name, *_shares(count)] for name, count in counts.items()]
    if len(counts) > 1:
        shares.append(["all", *_shares(total)])
    groups = [(name, kept.rows, MEANING[name]) for name, kept in examples.items() if kept.rows]
    groups.append(("On the border", border.rows, "The pairs nearest to the thresholds."))
    return render(
        "audit.html.j2",
        title=f"Audit of {about['data_name']}",
        generated=generated,
        contents=["Shares", *(name for name, rows, _ in groups if rows)],
        verdict=_verdict(about, total),
        head=["source", "pairs", *MEANING],
        shares=shares,
        groups=[(name, text, _cards(rows, manifest)) for name, rows, text in groups if rows],
    )


class _Kept:
    """The rows with the smallest key, at most SHOWN; rows whose key is NaN are left out."""

    def __init__(self, key: Callable[[dict], float]):
        self._key, self._rows = key, []

    def offer(self, row: dict) -> None:
        if np.isnan(self._key(row)):
            return
        self._rows.append(row)
        if len(self._rows) > 64 * SHOWN:
            self._rows = self.rows

    @property
    def rows(self) -> list[dict]:
        return sorted(self._rows, key=self._key)[:SHOWN]


def _draw(record: int) -> int:
    """A number that looks drawn: examples come from everywhere, and are always the same."""
    return record * 0x9E3779B97F4A7C15 % 2**64


def _shares(count: collections.Counter) -> list[str]:
    n = count.total()
    return [f"{n:,}", *(f"{count[name] / n:.1%}" for name in MEANING)]


def _verdict(about: dict, total: collections.Counter) -> str:
    n = total.total()
    said = [f"{total[WRONG]:,} of {n:,} pairs ({total[WRONG] / n:.1%}) are judged wrong."]
    if np.isfinite(about["threshold"]):
        said.append(
            f"By their ranks, about {about['estimated_wrong_share']:.0%} of the scored "
            f"pairs are wrong; a pair is judged so from a rank of {about['threshold']:.3f} on."
        )
    return " ".join(said)


def _cards(rows: Sequence[dict], manifest: Manifest) -> list[dict]:
    cards = []
    for row, record in zip(rows, look_up(manifest, [r["record"] for r in rows]), strict=True):
        told = [
            f"{name.replace('_', ' ')} {row[name]:.3g}"
            for name in NUMBERS
            if row.get(name) is not None and np.isfinite(row[name])
        ]
        details = [row["verdict"] + ": " + row["rule"], ", ".join(told), row["key"]]
        picture = picture_bytes(record.image)
        cards.append({"image": png_uri(picture), "text": row["caption"][:200], "details": details})
    return cards
