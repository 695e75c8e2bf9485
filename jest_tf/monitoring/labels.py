"""The selected examples, compared with known labels. For MEASURING only: nothing feeds back.

A data set may bring labels of its records (`About.labels`). A run keeps them in its workdir.
"""

import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from jest_tf.data.manifest import About, Manifest
from jest_tf.data.records import hashed_id
from jest_tf.errors import UserError, explaining
from jest_tf.files import parse_json
from jest_tf.monitoring.picks_log import UNKNOWN_ID, Picks

CLEAN = "clean"  # the label of a sound pair
UNLABELLED = "unlabelled"
ABOUT_FILE, LABELS_FILE = "about.json", "labels.npz"  # in a workdir, where its data have them


class Labels:
    """A table id → label for looking up many ids; `noisy`: labels of wrong or empty pairs."""

    def __init__(self, label_by_id: Mapping[int, str], noisy: Collection[str] = ()):
        self.noisy = frozenset(noisy)
        self.names = [*sorted(set(label_by_id.values()) - {UNLABELLED}), UNLABELLED]
        code = {name: i for i, name in enumerate(self.names)}
        ids = np.fromiter(label_by_id, np.int64, len(label_by_id))
        codes = np.array([code[label] for label in label_by_id.values()], np.int64)
        order = np.argsort(ids)
        self._ids, self._codes = ids[order], codes[order]

    def codes(self, ids: np.ndarray) -> np.ndarray:
        """Index into `names` for every id; same shape."""
        ids = np.asarray(ids)
        unlabelled = len(self.names) - 1
        if not self._ids.size:
            return np.full(ids.shape, unlabelled)
        place = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[place] == ids, self._codes[place], unlabelled)

    def shares(self, ids: np.ndarray) -> dict[str, float]:
        """Label → share of the ids, repeats included; sums to 1 unless there are no ids."""
        counts = np.bincount(self.codes(ids).ravel(), minlength=len(self.names))
        total = max(1, counts.sum())
        shares = {name: n / total for name, n in zip(self.names, counts.tolist(), strict=True)}
        if not shares[UNLABELLED]:
            del shares[UNLABELLED]
        return shares

    def pool_shares(self) -> dict[str, float]:
        """Label → share of the whole table: what picking blindly would give."""
        return self.shares(self._ids)

    def noisy_share(self, shares: Mapping[str, float]) -> float:
        return sum(share for label, share in shares.items() if label in self.noisy)

    def save(self, path: Path) -> None:
        names = np.array(self.names[:-1], np.str_)
        noisy = np.array(sorted(self.noisy), np.str_)
        np.savez_compressed(path, ids=self._ids, codes=self._codes, names=names, noisy=noisy)

    @classmethod
    def load(cls, path: Path) -> "Labels":
        with np.load(path, allow_pickle=False) as stored:
            ids, noisy = stored["ids"].tolist(), stored["noisy"].tolist()
            names = stored["names"][stored["codes"]].tolist() if ids else []
            return cls(dict(zip(ids, names, strict=True)), noisy)


@dataclasses.dataclass(frozen=True)
class Window:
    """What was picked during some consecutive recorded steps."""

    first_step: int
    last_step: int
    n_picks: int  # repeats included
    n_distinct: int
    n_distinct_so_far: int  # since the first step
    shares: dict[str, float]
    noisy: float  # share of the picks whose pair is wrong or empty


def read_labels(paths: Iterable[str], manifest: Manifest | None = None) -> Labels:
    """The labels of JSON-lines files, see `About.labels`; a `key` names a record of `manifest`.

    UserError: a file cannot be read, or a line is no label, with its number.
    """
    label_by_id, noisy = {}, {}
    for path in paths:
        names = ()
        if manifest:  # the sources whose shards lie beside the file; all where none does
            folder, sources = path.rpartition("/")[0] + "/", manifest.sources
            beside = {s.source for s in manifest.shards if s.path.startswith(folder)}
            names = [s.name for i, s in enumerate(sources) if i in beside or not beside]
        for number, row in _rows(path):
            text = f"{path} line {number}: expected {{id or key, label, noisy}}, found {row} "
            text += "({error})."
            kinds = (KeyError, TypeError, ValueError, AttributeError)
            with explaining(kinds, text, repr):
                label = str(row["label"])
                is_noisy = bool(row.get("noisy", label != CLEAN))
                if "id" in row:
                    ids = [int(row["id"])]
                else:
                    ids = [int(hashed_id(name, tf.constant(str(row["key"])))) for name in names]
            label_by_id |= dict.fromkeys(ids, label)
            if noisy.setdefault(label, is_noisy) != is_noisy:
                raise UserError(
                    f"{path} line {number}: label {label!r} is noisy in some rows and not "
                    "in others. Give the two meanings two names."
                )
    return Labels(label_by_id, [label for label, is_noisy in noisy.items() if is_noisy])


def keep_about(about: About, workdir: Path, manifest: Manifest | None = None) -> None:
    """Copies what a data set says about itself into the workdir of a run that trains on it."""
    if about == About():
        return
    lines = {"licences": about.licences, "limits": about.limits}
    (workdir / ABOUT_FILE).write_text(json.dumps(lines, indent=1, ensure_ascii=False), "utf-8")
    if about.labels and not (workdir / LABELS_FILE).exists():
        read_labels(about.labels, manifest).save(workdir / LABELS_FILE)


def run_about(workdir: Path) -> dict[str, list[str]]:
    """Licences and limits of a run's data, as far as they are known."""
    path = Path(workdir) / ABOUT_FILE
    return parse_json(path.read_text("utf-8")) if path.exists() else {}


def run_labels(workdir: Path) -> Labels | None:
    """The labels of a run's data, or None where they brought none."""
    path = Path(workdir) / LABELS_FILE
    return Labels.load(path) if path.exists() else None


def _rows(path: str) -> Iterator[tuple[int, Any]]:
    text = f"the labels {path} cannot be read: {{error}}"
    with explaining((tf.errors.OpError, ValueError), text, str), tf.io.gfile.GFile(path) as file:
        for number, line in enumerate(file, start=1):
            yield number, parse_json(line)


def windows(picks: Picks, labels: Labels, n_steps: int) -> Iterator[Window]:
    """Describes the picks of every `n_steps` steps in turn; holds those of one window."""
    distinct = np.zeros([0], np.int64)
    first = 1
    while first <= picks.last_step:
        last = min(first + n_steps - 1, picks.last_step)
        ids = picks.window(first, last)
        ids = ids[ids != UNKNOWN_ID]
        distinct_here = np.unique(ids)
        distinct = np.union1d(distinct, distinct_here)
        shares = labels.shares(ids)
        noisy = labels.noisy_share(shares)
        yield Window(first, last, ids.size, distinct_here.size, distinct.size, shares, noisy)
        first = last + 1
