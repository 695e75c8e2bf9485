"""How many near mates a row finds in a batch, and the policy that suits them.

They are all that joint selection sees beyond single scores. q is the chance that two different rows
are near. Among b rows, a row then has about b·q near mates.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from jest_tf.data import fields
from jest_tf.data.fields import hash64, is_text
from jest_tf.data.manifest import Manifest
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.data.sources import open_source
from jest_tf.errors import UserError
from jest_tf.preflight.report import Section

SAMPLED = 8192  # rows that are looked at: q of 1e-4 then rests on thousands of pairs
MOST_SHARDS = 64  # that they are read from
BLOCK = 1024
# With fewer mates in a batch, greedy joint selection takes mostly what independent top-k takes: 87%
# of it at 0.09 on the emoji pool, 70% at 0.34 (`python -m benchmarks.bq`).
FEW = 0.1


def check_mates(config: ConfigDict) -> Section:
    """b·q of `data.train`: by captions, and by the reference's embeddings where they are stored."""
    section = Section("Near mates: rows of a sub-batch that are close to one another")
    found = {}
    try:
        manifest = open_source(config.data.train, config.data.data_dir)
        found["same caption"] = captions_q(manifest)
        if config.reference.cache:
            cache = ReferenceCache.load(config.reference.cache)
            cache.check_manifest(manifest)
            found["reference: a match"] = reference_q(manifest, cache)
    except (UserError, OSError) as error:  # the sections on data and reference say so
        section.add("not counted", str(error).partition(":")[0])
    if not found:
        return section
    b = config.selection.sub_batch
    for label, q in found.items():
        section.add(label, f"b·q = {b * q:.2g}: {q:.2g} of the pairs of rows, times b = {b:,}")
    section.add("policy", recommended(max(b * q for q in found.values())))
    return section


def recommended(bq: float) -> str:
    """What the runs of docs/results.md say for so many mates."""
    if bq < FEW:
        return (
            "independent_top_k, or joint with selection.greedy: with so few near mates in a batch "
            "both select mostly the same (docs/results.md)"
        )
    return (
        "joint with selection.greedy takes other examples here than independent_top_k, of a higher "
        "joint score; that the model gets better was not shown (docs/results.md)"
    )


def captions_q(manifest: Manifest) -> float:
    """Chance that two rows have the same caption, on an even sample of the set."""
    hashes = []
    for index, path, skipped, stride in _even(manifest, [s.path for s in manifest.shards]):
        source = manifest.sources[manifest.shards[index].source]
        for serialized in _every(path, skipped, manifest.shards[index].records, stride):
            captions = fields.in_python(source, serialized).captions
            hashes += [hash64(text) for text in captions[:1] if is_text(text)]
    return equal_share(np.array(hashes, np.int64))


def reference_q(manifest: Manifest, cache: ReferenceCache) -> float:
    """Chance that the reference calls the picture of a row and the caption of another a match."""
    rows = []
    for index, path, _, stride in _even(manifest, cache.shard_paths):
        rows += list(_every(path, 0, manifest.shards[index].records, stride))
    parsed = cache.parse(tf.constant(rows), tf.zeros([len(rows)], tf.int64))
    zimg, ztxt = (parsed[f"reference_{side}"].numpy() for side in ("zimg", "ztxt"))
    return match_share(zimg, ztxt, cache.scale, cache.bias)


def equal_share(values: np.ndarray) -> float:
    """Share of the pairs of different rows that have the same value."""
    _, counts = np.unique(values, return_counts=True)
    n = len(values)
    return float(np.sum(counts * (counts - 1.0)) / max(1, n * (n - 1)))


def match_share(zimg: np.ndarray, ztxt: np.ndarray, scale: float, bias: float) -> float:
    """Share of the pairs i ≠ j with scale·<x_i, y_j> + bias > 0. zimg, ztxt: [n, d]."""
    n, matches = len(zimg), 0
    for start in range(0, n, BLOCK):
        logits = scale * (zimg[start : start + BLOCK] @ ztxt.T) + bias
        matches += int((logits > 0).sum())
    matches -= int((scale * np.sum(zimg * ztxt, axis=1) + bias > 0).sum())
    return matches / max(1, n * (n - 1))


def _even(manifest: Manifest, paths: list[str]) -> Iterator[tuple[int, str, int, int]]:
    """(index, path, records to skip, stride) of the shards that a sample is read from."""
    n = len(manifest.shards)
    used = np.unique(np.linspace(0, n - 1, min(n, MOST_SHARDS)).astype(int)).tolist()
    stride = -(-sum(manifest.shards[index].records for index in used) // SAMPLED)
    for index in used:
        yield index, paths[index], manifest.shards[index].start, max(1, stride)


def _every(path: str, skipped: int, n: int, stride: int) -> Iterator[bytes]:
    """Every `stride`-th of the n records behind the first `skipped`."""
    file = tf.data.TFRecordDataset(path).skip(skipped).take(n)
    return file.shard(stride, 0).as_numpy_iterator()
