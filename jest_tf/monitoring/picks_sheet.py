"""Pictures of chosen and rejected examples with their captions, from the samples of one step."""

import numpy as np
from PIL import Image

from jest_tf.monitoring.samples import GROUPS, Samples
from jest_tf.pages.contact_sheet import Hit, Row, contact_sheet, end_of

COLUMNS = 8
# TensorBoard shows pictures in narrow cards: fewer columns keep the captions readable.
GROUP_COLUMNS = 4
KEY_LENGTH = 14  # characters, one line
CAPTION_LINES = 4  # a key, then three: the captions of broken pairs tell the story


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
