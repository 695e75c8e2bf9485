"""TFDS sets by name: prepared once, then read in place through a manifest."""

import os
import re
import sys

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from jest_tf.data.manifest import About, Manifest, Shard, Source
from jest_tf.data.sources import hint
from jest_tf.errors import UserError, explaining

CAPTION_NAMES = ("captions/text", "captions", "caption", "text", "title", "alt_text")
ID_NAMES = ("id", "image/id", "image_id")
LABEL_NAMES = ("label", "labels", "class")
KEY_NAMES = ("key", "file_name", "image/filename", "url", "filename")
LABELS_FILE = "labels.jsonl"  # beside the shards of a prepared set, where its builder wrote one


def open_named(name: str, data_dir: str | None = None) -> Manifest:
    """Manifest of `BUILDER[/CONFIG][/VERSION]:SPLIT`, e.g. `coco_captions:train`, prepared if need
    be. The name of a manifest of TFDS is of this form.

    UserError: unknown builder, config or split, or a set without images and texts.
    """
    builder_name, _, split = name.partition(":")
    builder = find_builder(builder_name, data_dir)
    if not builder.is_prepared():
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()  # in a log every redrawn bar is a line of its own
        print(f"preparing {builder_name} in {builder.data_dir}", flush=True)
        builder.download_and_prepare(file_format="tfrecord")
    return manifest(builder, split or "train")


def find_builder(name: str, data_dir: str | None = None):
    """The builder of `BUILDER[/CONFIG][/VERSION]`, or its files alone; UserError: unknown."""
    try:  # TFDS writes the version behind a slash, and reads it behind a colon
        return tfds.builder(re.sub(r"/(\d+\.\d+\.\d+)$", r":\1", name), data_dir=data_dir)
    except (ValueError, tfds.core.DatasetNotFoundError) as error:
        reason = str(error).splitlines()[0].rstrip(". ")
        raise UserError(f"TFDS has no set {name!r}: {reason}{hint()}") from error


def manifest(builder, split: str, keys: dict | None = None) -> Manifest:
    """The shards of a prepared TFDS set, in place; split: any expression, e.g. `train[:10%]`.

    UserError: not prepared, not TFRecord, unknown split, or no image and text features.
    """
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise UserError(
            f"{builder.data_dir} holds {builder.info.file_format.value} files; training reads "
            "TFRecords. Prepare the set again with file_format='tfrecord'."
        )
    splits = builder.info.splits
    text = f"{builder.info.full_name} has no split {split!r}; it has "
    with explaining((KeyError, ValueError), text + (", ".join(splits) or "none: prepare it first")):
        instructions = splits[split].file_instructions
    source = detect_source(builder, keys)
    shards = tuple(
        Shard(
            path=os.fspath(part.filename),
            records=part.examples_in_shard - part.skip if part.take == -1 else part.take,
            start=part.skip,
            bytes=tf.io.gfile.stat(os.fspath(part.filename)).length,
        )
        for part in instructions
    )
    labels = os.path.join(os.fspath(builder.data_dir), LABELS_FILE)
    known = {"labels": [labels] if tf.io.gfile.exists(labels) else []}
    about = About.from_dict(dict(builder.info.metadata or {}) | known)
    return Manifest(f"tfds:{builder.info.full_name}:{split}", (source,), shards, about)


def detect_source(builder, keys: dict | None = None) -> Source:
    """Which features are the image, the text, the id: by type and usual name, or as `keys` say."""
    features = _flatten(builder.info.features)
    keys = dict(keys or {})
    labels = tuple(keys.pop("labels", ()))
    unknown = [v for v in keys.values() if v is not None and v not in features]
    if unknown:
        raise UserError(
            f"{builder.info.full_name} has no feature {unknown}; it has {list(features)}"
        )

    def first(names, is_kind) -> str | None:
        return next((n for n in names if n in features and is_kind(features[n])), None)

    found = {
        "image": first(features, lambda f: isinstance(f, tfds.features.Image)),
        "captions": first(CAPTION_NAMES, lambda f: _dtype(f) in ("object", "str")),
        "id": first(ID_NAMES, lambda f: f.shape == () and _dtype(f) in ("int64", "int32")),
        "key": first(KEY_NAMES, lambda f: _dtype(f) in ("object", "str")),
        "label": first(LABEL_NAMES, lambda f: isinstance(f, tfds.features.ClassLabel)),
    } | keys
    if found["label"] and not labels:
        labels = tuple((builder.info.metadata or {}).get("label_texts", ()))
        labels = labels or tuple(features[found["label"]].names or ())
    if not found["image"] or not (found["captions"] or labels):
        raise UserError(
            f"{builder.info.full_name}: expected an image and a caption or a named label; its "
            f"features are {list(features)}. Name them with keys={{'image': …, 'captions': …}}."
        )
    name = builder.name + (f"/{builder.builder_config.name}" if builder.builder_config else "")
    return Source(name=name, labels=labels, **found)


def _dtype(feature) -> str:
    return np.dtype(feature.np_dtype).name


def _flatten(feature, prefix: str = "") -> dict:
    """Feature names as TFDS writes them into the tf.train.Example: joined by `/`."""
    if isinstance(feature, tfds.features.Sequence):
        return _flatten(feature.feature, prefix)
    if isinstance(feature, tfds.features.FeaturesDict):
        flat = {}
        for name, child in feature.items():
            flat |= _flatten(child, f"{prefix}/{name}" if prefix else name)
        return flat
    return {prefix: feature}
