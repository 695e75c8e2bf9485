"""Caches of embeddings: of a run that is to be a reference, and of a frozen image tower."""

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf
from ml_collections import ConfigDict

from jest_tf.data import reference_fill
from jest_tf.data.manifest import Manifest
from jest_tf.data.reference_cache import CAPTIONS, CacheWriter, ReferenceCache
from jest_tf.errors import UserError
from jest_tf.runtime.strategy import ONE_DEVICE, Runtime
from jest_tf.serving.encoders import towers
from jest_tf.training.run.restore import LoadedRun, load_workdir, reference_identity
from jest_tf.training.run.workdir import Workdir


def cache_of_run(run: LoadedRun, manifest: Manifest, folder: str, **how) -> CacheWriter:
    """Embeds what is missing of a data set, at the run's own resolution; see `filled_by_run`."""
    writer, fill = filled_by_run(run, manifest, folder, **how)
    fill(writer.missing_shards())
    return writer


def filled_by_run(
    run: LoadedRun,
    manifest: Manifest,
    folder: str,
    *,
    dtype: str,
    batch_size: int = 256,
    runtime: Runtime = ONE_DEVICE,
) -> tuple[CacheWriter, Callable[[Sequence[int]], None]]:
    """A cache, and what embeds its shards; `run` was loaded in the scope of `runtime`."""
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
    fill = functools.partial(
        reference_fill.embed,
        writer,
        run.tokenizer,
        *towers(run.model, size, runtime.by_rows),
        image_size=run.config.data.image_size,
        pixels=run.model.pixels,
        batch_size=batch_size,
    )
    return writer, lambda shards: fill(shards=shards)


def open_image_cache(
    config: ConfigDict, manifest: Manifest, workdir: Workdir, runtime: Runtime
) -> ReferenceCache | None:
    """The cache that `model.image.cache` names; None where none is named.

    A new run's chief first computes what is missing with the weights of `model.init`, as
    `cache_reference` does: the folder may serve as `reference.cache`. UserError: it is of other
    data, weights or image size.
    """
    folder = config.model.image.cache
    if not folder:
        return None
    if runtime.is_chief and workdir.is_new:
        alone = runtime.alone
        with alone.strategy.scope():
            run = load_workdir(config.model.init)
        writer = cache_of_run(run, manifest, folder, dtype="float16", runtime=alone)
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
