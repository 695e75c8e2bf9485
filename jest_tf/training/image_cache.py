"""The embeddings of a frozen image tower, computed once and read instead of the pictures."""

import ml_collections
import tensorflow as tf
from absl import logging

from jest_tf.data.manifest import Manifest
from jest_tf.data.reference_cache import CAPTIONS, ReferenceCache
from jest_tf.errors import UserError
from jest_tf.training.cache_fill import cache_of_run
from jest_tf.training.run.restore import load_workdir
from jest_tf.training.run.workdir import Workdir


def open_image_cache(
    config: ml_collections.ConfigDict, manifest: Manifest, workdir: Workdir, fills: bool
) -> ReferenceCache | None:
    """The cache that `model.image.cache` names; None where none is named.

    A new run's chief (`fills`) first computes what is missing with the weights of `model.init`, as
    `cache_reference` does: the folder may serve as `reference.cache`. UserError: it is of other
    data, weights or image size.
    """
    folder = config.model.image.cache
    if not folder:
        return None
    if fills and workdir.is_new:
        run = load_workdir(config.model.init)
        writer = cache_of_run(run, manifest, folder, dtype="float16", report=logging.info)
        cache = writer.finish()
    else:
        cache = ReferenceCache.load(folder)
    size = cache.identity.get("image_size")
    if size != config.model.image_size:
        raise UserError(
            f"model.image.cache = {folder} holds embeddings of pictures of {size} px, and "
            f"model.image_size is {config.model.image_size}. Leave image_size at 0, so that it is "
            "that of model.init, or train without model.image.cache."
        )
    record = next(iter(tf.data.TFRecordDataset(cache.shard_paths[0]))).numpy()
    if not tf.train.Example.FromString(record).features.feature[CAPTIONS].bytes_list.value:
        raise UserError(
            f"model.image.cache = {folder} keeps no captions (embeddings that were imported, or by "
            "an older version). Give an empty folder, and the run computes its own."
        )
    return cache
