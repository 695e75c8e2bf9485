"""What a run picked, against the truth that only the shipped pool has. For measuring only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from examples.emoji import builder as emoji
from jest_tf.monitoring.labels import CLEAN
from jest_tf.monitoring.picks_log import UNKNOWN_ID, Picks

RECENT_PICKS = 1000
SKIN_TONES = frozenset({"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"})


def concept_of(key: str) -> str:
    """What an image shows, whoever drew it and in whichever skin tone.

    The name of the emoji as code points, without vendor and skin tones; icons have names.
    """
    _, _, name = key.partition("/")
    parts = [part for part in name.split("-") if part.upper() not in SKIN_TONES]
    return "-".join(parts) or name


class PoolTruth:
    """Noise, concept and overlap with the curated set of every pool row, by id.

    Args:
      source_dir: folder of the shipped set; the checkout's own by default.
    """

    def __init__(self, source_dir: str | None = None):
        source = Path(source_dir) if source_dir else emoji.SOURCE_DIR
        rows = emoji.read_rows(source, "pool.jsonl")
        curated = emoji.read_rows(source, "curated.jsonl")
        pairs = {(row["key"], caption) for row in curated for caption in row["captions"]}
        images = {row["key"] for row in curated}
        self.kinds = sorted({row["noise"] for row in rows})
        self._row = np.full([max(row["id"] for row in rows) + 1], -1)
        self._row[[row["id"] for row in rows]] = np.arange(len(rows))
        self._kind = np.array([self.kinds.index(row["noise"]) for row in rows])
        concepts = sorted({concept_of(row["key"]) for row in rows})
        number = {concept: i for i, concept in enumerate(concepts)}
        self._concept = np.array([number[concept_of(row["key"])] for row in rows])
        self._pair_seen = np.array([(row["key"], row["caption"]) in pairs for row in rows])
        self._image_seen = np.array([row["key"] in images for row in rows])

    def describe(self, ids: np.ndarray) -> dict[str, Any]:
        """What the ids, repeats included, are.

        Returns:
          `n` picks; `shares` of each kind of noise; `distinct` rows and `concepts`; `pair_seen` and
          `image_seen`, shares whose pair (image and caption) or image is in the curated set.
        """
        rows = self._row[ids[ids != UNKNOWN_ID]]
        if not rows.size:
            return {"n": 0}
        counts = np.bincount(self._kind[rows], minlength=len(self.kinds))
        return {
            "n": int(rows.size),
            "shares": {k: c / rows.size for k, c in zip(self.kinds, counts.tolist(), strict=True)},
            "distinct": int(np.unique(rows).size),
            "concepts": int(np.unique(self._concept[rows]).size),
            "pair_seen": float(self._pair_seen[rows].mean()),
            "image_seen": float(self._image_seen[rows].mean()),
        }

    def pool(self) -> dict[str, Any]:
        """The whole pool, described: what picking blindly would give."""
        return self.describe(np.flatnonzero(self._row >= 0))


def describe_picks(picks: Picks, truth: PoolTruth, every: int, warmup_steps: int) -> dict[str, Any]:
    """The picks of a run: in windows of `every` steps, after warm-up, and all of them.

    A window has `step`, its last, besides what `PoolTruth.describe` gives; `distinct_so_far`; and
    `recent_concepts` of the RECENT_PICKS picks up to its end: windows differ in size, and of more
    picks a smaller part is distinct.
    """
    windows, so_far = [], np.zeros([0], np.int64)
    recent_steps = -(-RECENT_PICKS // picks.sub_batch)
    for first in range(1, picks.last_step + 1, every):
        last = min(first + every - 1, picks.last_step)
        ids = picks.window(first, last).ravel()
        so_far = np.union1d(so_far, ids[ids != UNKNOWN_ID])
        recent = picks.window(max(1, last - recent_steps + 1), last).ravel()[-RECENT_PICKS:]
        windows.append(
            {
                "step": last,
                **truth.describe(ids),
                "distinct_so_far": int(so_far.size),
                "recent_concepts": truth.describe(recent).get("concepts"),
            }
        )
    after = picks.window(min(warmup_steps + 1, picks.last_step), picks.last_step).ravel()
    return {
        "windows": windows,
        "after_warmup": truth.describe(after),
        "all": truth.describe(picks.window(1, picks.last_step).ravel()),
    }


def clean(described: Mapping[str, Any]) -> float:
    """Share of sound pairs."""
    return described["shares"].get(CLEAN, 0.0)


def broken(described: Mapping[str, Any]) -> float:
    """Share of pairs that say nothing true."""
    return sum(described["shares"].get(kind, 0.0) for kind in sorted(emoji.NOISY))


def rejected(picked: float, pool: float, filter_ratio: float) -> float:
    """Of the loaded rows of a kind, the share not picked; chance is the filter ratio.

    Args:
      picked, pool: share of the kind among the picked, and in the pool.
    """
    return 1 - (1 - filter_ratio) * picked / pool


def rejected_precision(picked_broken: float, pool_broken: float, filter_ratio: float) -> float:
    """Share of broken rows among those loaded and not picked; chance is the pool's share.

    The super-batches are taken to hold the pool's share of broken rows, true on average.
    """
    return (pool_broken - (1 - filter_ratio) * picked_broken) / filter_ratio
