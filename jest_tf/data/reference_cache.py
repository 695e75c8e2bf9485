"""The frozen reference's embeddings, computed once and read along with the data.

A cache is a folder: `cache.json` and one TFRecord file per shard of the manifest it belongs to,
record by record in the same order, so that joining needs no look-up and no shuffle. Each record
holds its id (checked against the data's in training), zimg, and one ztxt per caption.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tensorflow as tf

from jest_tf.data.fields import example, parse_examples
from jest_tf.data.manifest import Manifest
from jest_tf.errors import UserError, explaining
from jest_tf.files import parse_json, replacing, write_atomically
from jest_tf.progress import Counter

VERSION = 1
CAPTIONS = "captions"  # feature of its records, empty where embeddings were imported
DTYPES = {"float16": tf.float16, "bfloat16": tf.bfloat16}


@dataclasses.dataclass(frozen=True)
class ReferenceCache:
    """What `cache.json` says. The logit of a pair is scale * <zimg, ztxt> + bias."""

    folder: str
    identity: dict  # what the embeddings depend on, e.g. {weights, step, tokenizer, image_size}
    data: str  # fingerprint of the manifest
    dim: int  # width of the embeddings, which may differ from the learner's
    dtype: str
    scale: float
    bias: float
    records: tuple[int, ...]  # per shard

    @property
    def shard_paths(self) -> list[str]:
        return [shard_path(self.folder, index) for index in range(len(self.records))]

    @classmethod
    def load(cls, folder: str) -> "ReferenceCache":
        """Reads a finished cache; UserError: none is there, or one that was not finished."""
        path = f"{folder}/cache.json"
        with (
            explaining(
                tf.errors.OpError,
                f"{folder} is neither a run (config.json) nor a finished reference cache "
                "(cache.json: {error}). Correct the name; a cache that was begun is finished by "
                "the same `python -m jest_tf.cache_reference` again.",
            ),
            explaining(
                (ValueError, KeyError, TypeError),
                f"{path} is not a reference cache ({{error}})",
            ),
        ):
            with tf.io.gfile.GFile(path) as file:
                content = parse_json(file.read())
            if content.pop("version") != VERSION:
                raise UserError(f"{path} is of another version; compute the cache again.")
            content["records"] = tuple(content["records"])
            return cls(folder=folder, **content)

    def check_manifest(self, manifest: Manifest) -> None:
        """Raises UserError unless the cache belongs to exactly these records in this order."""
        counts = tuple(shard.records for shard in manifest.shards)
        if manifest.fingerprint != self.data or counts != self.records:
            raise UserError(
                f"reference cache {self.folder} belongs to other data: fingerprint {self.data} "
                f"with {sum(self.records):,} records in {len(self.records)} shards, but "
                f"{manifest.name} is {manifest.fingerprint} with {sum(counts):,} in {len(counts)}. "
                f"Compute the cache of this data set: --data='{manifest.name}'."
            )

    def check_identity(self, expected: dict) -> None:
        """Raises UserError that shows each difference between the cache and the run's reference."""
        names = sorted(set(self.identity) | set(expected))
        differences = [
            f"{name}: cache has {self.identity.get(name)!r}, the run expects {expected.get(name)!r}"
            for name in names
            if self.identity.get(name) != expected.get(name)
        ]
        if differences:
            raise UserError(
                f"reference cache {self.folder} was made by another reference:\n  "
                + "\n  ".join(differences)
                + "\nCompute it again, or name the reference that it was made with."
            )

    def parse(self, serialized: tf.Tensor, caption_index: tf.Tensor) -> dict:
        """{id int64 [c], reference_zimg, reference_ztxt float32 [c, d]} of cache records."""
        spec = {
            "id": tf.io.FixedLenFeature([], tf.int64),
            "zimg": tf.io.FixedLenFeature([], tf.string),
            "ztxt": tf.io.FixedLenFeature([], tf.string),
        }
        parsed = parse_examples(serialized, spec)
        n_bytes = 2 * self.dim
        begin = tf.cast(caption_index, tf.int32) * n_bytes
        ztxt = tf.strings.substr(parsed["ztxt"], begin, tf.fill(tf.shape(begin), n_bytes))
        return {
            "id": parsed["id"],
            "reference_zimg": self.floats(parsed["zimg"]),
            "reference_ztxt": self.floats(ztxt),
        }

    def embeddings(self, shard: int, places: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """zimg, ztxt float32 [n, d] of a shard's records, each with the caption at its place."""
        serialized = list(tf.data.TFRecordDataset(self.shard_paths[shard]).as_numpy_iterator())
        parsed = self.parse(tf.constant(serialized), tf.constant(places, tf.int64))
        return parsed["reference_zimg"].numpy(), parsed["reference_ztxt"].numpy()

    def floats(self, raw: tf.Tensor) -> tf.Tensor:
        """Stored embeddings, string [c] -> float32 [c, d]."""
        bits = tf.io.decode_raw(raw, tf.uint16, fixed_length=2 * self.dim)
        return tf.cast(tf.bitcast(bits, DTYPES[self.dtype]), tf.float32)


def shard_path(folder: str, index: int) -> str:
    return f"{folder}/reference-{index:05d}.tfrecord"


class CacheWriter:
    """Writes a cache shard by shard; a shard that is there already is kept, so it resumes.

    UserError: the folder holds (part of) a cache of another reference or other data.
    """

    def __init__(
        self,
        folder: str,
        manifest: Manifest,
        *,
        identity: dict,
        dim: int,
        scale: float,
        bias: float,
        dtype: str = "float16",
    ):
        if dtype not in DTYPES:
            raise UserError(f"cache dtype {dtype!r}; expected one of {sorted(DTYPES)}")
        self.manifest = manifest
        records = tuple(shard.records for shard in manifest.shards)
        self.cache = ReferenceCache(
            folder, identity, manifest.fingerprint, dim, dtype, scale, bias, records
        )
        tf.io.gfile.makedirs(folder)
        # Whose shards these are: parts of two caches must never mix.
        path = f"{folder}/incomplete.json"
        if tf.io.gfile.exists(path):
            with tf.io.gfile.GFile(path) as file:
                found = parse_json(file.read())
            wanted = json.loads(self._json())
            different = [k for k in wanted if wanted[k] != found.get(k)]
            if different:
                shown = "; ".join(f"{k}: {found.get(k)} / {wanted[k]}" for k in different)
                raise UserError(
                    f"{folder} holds another cache (found / wanted): {shown[:800]}. Name another "
                    "--out, or remove that folder."
                )
        write_atomically(path, self._json())

    def missing_shards(self) -> list[int]:
        paths = enumerate(self.cache.shard_paths)
        return [i for i, path in paths if not tf.io.gfile.exists(path)]

    def fill(
        self,
        rows: Callable[[Manifest, int], Iterable[tuple]],
        shards: Sequence[int] | None = None,
        what: str = "importing embeddings",
    ) -> None:
        """Writes these shards, by default all that miss; rows: (manifest, index) → a shard's."""
        shards = self.missing_shards() if shards is None else shards
        n_records = sum(self.manifest.shards[i].records for i in shards)
        with Counter(what, n_records) as counter:
            for index in shards:
                self.write_shard(index, counter.over(rows(self.manifest, index)))

    def write_shard(self, index: int, rows: Iterable[tuple]) -> None:
        """Writes one shard: (id, zimg [d], ztxt [n_captions, d]) per record, in manifest order.

        A fourth value, the captions (bytes), lets a run read the cache instead of the shard.
        """
        path = shard_path(self.cache.folder, index)
        expected = self.manifest.shards[index].records
        count = 0
        with replacing(path) as aside:
            with tf.io.TFRecordWriter(aside) as writer:
                for row in rows:
                    writer.write(self._serialize(*row))
                    count += 1
            if count != expected:
                raise ValueError(f"{path}: {count} rows for a shard of {expected} records")

    def finish(self) -> ReferenceCache:
        """Writes `cache.json`; raises UserError while shards are missing."""
        missing = self.missing_shards()
        if missing:
            raise UserError(
                f"reference cache {self.cache.folder}: {len(missing)} of "
                f"{len(self.manifest.shards)} shards are missing, first {missing[0]}. "
                "Run the same command again."
            )
        write_atomically(f"{self.cache.folder}/cache.json", self._json())
        return self.cache

    def _json(self) -> str:
        content = dataclasses.asdict(self.cache) | {"version": VERSION}
        del content["folder"]
        return json.dumps(content, indent=1)

    def _serialize(
        self, record_id: int, zimg: np.ndarray, ztxt: np.ndarray, captions: Sequence[bytes] = ()
    ) -> bytes:
        ztxt = np.atleast_2d(ztxt)
        if zimg.shape != (self.cache.dim,) or ztxt.shape[1] != self.cache.dim:
            raise UserError(
                f"record {record_id}: zimg {zimg.shape} and ztxt {ztxt.shape}; expected "
                f"({self.cache.dim},) and (captions, {self.cache.dim})"
            )
        dtype = DTYPES[self.cache.dtype].as_numpy_dtype
        raw = [np.ascontiguousarray(z.astype(dtype)).tobytes() for z in (zimg, ztxt)]
        return example(
            {"id": [int(record_id)], "zimg": [raw[0]], "ztxt": [raw[1]], CAPTIONS: captions}
        )


def unit_norm(values: np.ndarray) -> np.ndarray:
    """float32, each vector along the last axis of length 1."""
    values = np.asarray(values, np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)
