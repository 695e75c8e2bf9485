"""Pictures of chosen and rejected examples with their captions, from the samples of one step."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from jest_tf.monitoring.contact_sheet import Hit, Row, contact_sheet
from jest_tf.monitoring.samples import GROUPS, Samples

COLUMNS = 8
CAPTION_LINES = 3  # the captions of broken pairs tell the story: they must be readable


def picks_sheet(
    samples: Samples, groups: Sequence[str], n_rows: int, title: str = ""
) -> np.ndarray:
    """One picture of some groups, best example first, captions and scores below.

    Args:
      samples: of one step.
      groups: keys of GROUPS, one below the other; groups without examples are left out.
      n_rows: rows of COLUMNS examples, at most, for each group.
      title: one line above all.

    Returns:
      uint8 [h, w, 3].
    """
    rows = [row for group in groups for row in _rows(group, samples.of(group), n_rows)]
    return np.asarray(contact_sheet(rows, title, label_lines=CAPTION_LINES))


def _rows(group: str, samples: Samples, n_rows: int) -> Iterator[Row]:
    hits = [
        Hit(Image.fromarray(image), float(score), str(caption))
        for image, score, caption in zip(samples.image, samples.score, samples.caption, strict=True)
    ]
    for row in range(min(n_rows, -(-len(hits) // COLUMNS))):
        yield Row(GROUPS[group] if row == 0 else "", hits[row * COLUMNS : (row + 1) * COLUMNS])
