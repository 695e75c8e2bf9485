"""The embeddings of an evaluation's images, as TensorBoard's projector takes them."""

import numpy as np

from jest_tf.data.evaluation_data import EvaluationData
from jest_tf.data.sources import open_source
from jest_tf.errors import UserError
from jest_tf.evaluation.base import Encoder

# More would not fit into the one picture that the projector takes, 64 px each.
MAX_POINTS = 16_384


def projection(
    source: str, encoder: Encoder, data_dir: str | None = None, batch_size: int = 256
) -> tuple[np.ndarray, dict[str, list[str]], np.ndarray]:
    """(zimg [n, d], title -> n texts, images uint8 [n, S, S, 3]) of the first MAX_POINTS."""
    data = EvaluationData(open_source(source, data_dir), encoder.decode_size, encoder.pixels)
    zimg, images, captions, labels = [], [], [], []
    for batch in data.batches(batch_size):
        zimg.append(encoder.encode_image(batch.images))
        images.append(batch.images)
        captions += [" | ".join(of_image) for of_image in batch.captions]
        labels += [data.label_texts[i] if 0 <= i < len(data.label_texts) else str(i)
                   for i in batch.labels.tolist()]  # fmt: skip
        if len(captions) >= MAX_POINTS:
            break
    if not captions:
        raise UserError(f"{source}: not one of {data.n_skipped} pictures could be decoded")
    columns = {"captions": captions, "label": labels}
    shown = {title: texts[:MAX_POINTS] for title, texts in columns.items() if len(set(texts)) > 1}
    z, pictures = (np.concatenate(parts)[:MAX_POINTS] for parts in (zimg, images))
    return z, shown or {"captions": captions[:MAX_POINTS]}, pictures
