"""A few chosen and rejected examples of one step, kept so that people can look at them.

samples/step-00000100.npz    plain numpy arrays of n examples, no pickle:
    group            unicode [n], a key of GROUPS
    id               int64 [n]
    image            uint8 [n, h, w, 3]
    caption, source  unicode [n]; the caption as the record holds it, where that is known
    key              unicode [n], what names the record in its source; "" where it is not known
    score            float32 [n], what the policy ranked by, S_ii
    learner_loss, reference_loss    float32 [n], -z_ii side of the pair loss; NaN without a model
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from jest_tf.errors import explaining
from jest_tf.files import replacing, step_file, steps_with_file, writing
from jest_tf.pages.contact_sheet import Hit, Row, contact_sheet, end_of

# Of a sheet of pictures.
COLUMNS = 8
# TensorBoard shows pictures in narrow cards: fewer columns keep the captions readable.
GROUP_COLUMNS = 4
KEY_LENGTH = 14  # characters, one line
CAPTION_LINES = 4  # a key, then three: the captions of broken pairs tell the story

# Group → how a person would call it.
GROUPS = {
    "chosen": "Selected: highest score",
    "rejected_noise": "Rejected: highest loss of the reference (often noise)",
    "rejected_known": "Rejected: lowest loss of the learner (already learned)",
}


@dataclasses.dataclass(frozen=True)
class Samples:
    """n examples of one step; fields as in the module's docstring."""

    group: np.ndarray
    id: np.ndarray
    image: np.ndarray
    caption: np.ndarray
    source: np.ndarray
    score: np.ndarray
    learner_loss: np.ndarray
    reference_loss: np.ndarray
    key: np.ndarray | None = None  # read as "" everywhere

    def __post_init__(self) -> None:
        if self.key is None:
            object.__setattr__(self, "key", np.full(len(self.id), "", np.str_))
        lengths = {field.name: len(getattr(self, field.name)) for field in dataclasses.fields(self)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"samples: every field needs the same length, got {lengths}")

    def of(self, group: str) -> "Samples":
        rows = np.flatnonzero(self.group == group)
        return Samples(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))


def pick_samples(
    score: np.ndarray,
    learner_loss: np.ndarray,
    reference_loss: np.ndarray,
    chosen: np.ndarray,
    valid: np.ndarray,
    per_group: int,
) -> dict[str, np.ndarray]:
    """Group → row indices of a super-batch to show, at most `per_group`; float and bool [n].

    Of the chosen those with the highest score; of the valid others those that the reference finds
    hardest, and of what is left those that the learner finds easiest.
    """
    chosen_rows = np.flatnonzero(chosen & valid)
    rejected = np.flatnonzero(~chosen & valid)
    groups = {"chosen": _first(chosen_rows, -score[chosen_rows], per_group)}
    noise = _first(rejected, -reference_loss[rejected], per_group)
    rest = np.setdiff1d(rejected, noise)
    return groups | {
        "rejected_noise": noise,
        "rejected_known": _first(rest, learner_loss[rest], per_group),
    }


def write_samples(folder: str | os.PathLike, step: int, samples: Samples) -> Path:
    """Write one step's samples atomically; returns the file."""
    arrays = {f.name: np.asarray(getattr(samples, f.name)) for f in dataclasses.fields(samples)}
    for name in ("group", "caption", "source", "key"):
        arrays[name] = arrays[name].astype(np.str_)
    path = step_file(folder, step)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as aside, open(aside, "wb") as file:
            np.savez_compressed(file, **arrays)
    return path


def read_samples(folder: str | os.PathLike, step: int) -> Samples:
    """The samples of one step; UserError: the file is missing or damaged."""
    with reading(step_file(folder, step)) as arrays:
        names = [f.name for f in dataclasses.fields(Samples) if f.name in arrays]
        return Samples(**{name: arrays[name] for name in names})


@contextlib.contextmanager
def reading(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an .npz file; UserError: it is missing or damaged."""
    # A damaged zip raises zipfile's, zlib's, numpy's or OSError's.
    text = f"{path} cannot be read: {{error}}. Delete it."
    with explaining(Exception, text), np.load(path, allow_pickle=False) as arrays:
        yield arrays


def cut_samples(folder: str | os.PathLike, last_step: int) -> None:
    """Remove the samples of steps after `last_step`: a resumed run writes them again."""
    for step in steps_with_file(folder):
        if step > last_step:
            step_file(folder, step).unlink()


def _first(rows: np.ndarray, keys: np.ndarray, n: int) -> np.ndarray:
    return rows[np.argsort(keys, kind="stable")[:n]]


def picks_sheet(samples: Samples, title: str) -> np.ndarray:
    """uint8 [h, w, 3]: the best COLUMNS examples of each group, captions and scores below."""
    rows = [Row(name, _hits(samples.of(group))[:COLUMNS]) for group, name in GROUPS.items()]
    rows = [row for row in rows if row.hits]
    return np.asarray(contact_sheet(rows, title, label_lines=CAPTION_LINES))


def group_sheet(samples: Samples, group: str) -> np.ndarray:
    """All examples of one group, at least one, best first, row by row; uint8 [h, w, 3]."""
    hits = _hits(samples.of(group))
    rows = [Row("", hits[i : i + GROUP_COLUMNS]) for i in range(0, len(hits), GROUP_COLUMNS)]
    sheet = contact_sheet(rows, GROUPS[group], label_lines=CAPTION_LINES, query_width=0)
    return np.asarray(sheet)


def _hits(samples: Samples) -> list[Hit]:
    """Each with the end of its record's key, then its caption, below."""
    columns = samples.image, samples.score, samples.key, samples.caption
    return [
        Hit(Image.fromarray(i), float(s), f"{end_of(str(key), KEY_LENGTH)} {caption}".strip())
        for i, s, key, caption in zip(*columns, strict=True)
    ]
