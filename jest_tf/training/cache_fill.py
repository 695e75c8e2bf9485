"""The embeddings of a run that is to be a reference, written as a cache."""

from collections.abc import Callable

import tensorflow as tf

from jest_tf.data import reference_fill
from jest_tf.data.manifest import Manifest
from jest_tf.data.reference_cache import CacheWriter
from jest_tf.serving.saved_model import encode_pixels
from jest_tf.training.run.restore import LoadedRun, reference_identity


def cache_of_run(
    run: LoadedRun,
    manifest: Manifest,
    folder: str,
    *,
    dtype: str,
    batch_size: int = 256,
    part: int = 0,
    parts: int = 1,
    report: Callable[[str], None] = print,
) -> CacheWriter:
    """Embeds what is missing of this part of a data set, at the run's own resolution."""
    size = run.model.config.image_size
    writer = CacheWriter(
        folder,
        manifest,
        identity=reference_identity(run),
        dim=run.model.config.embed_dim,
        scale=float(run.model.scale),
        bias=float(tf.convert_to_tensor(run.model.bias)),
        dtype=dtype,
    )
    reference_fill.embed(
        writer,
        run.tokenizer,
        tf.function(lambda images: encode_pixels(run.model, images, size)),
        tf.function(lambda tokens: run.model.encode_text(tokens)),
        image_size=run.config.data.image_size,
        pixels=run.model.pixels,
        batch_size=batch_size,
        part=part,
        parts=parts,
        report=report,
    )
    return writer
