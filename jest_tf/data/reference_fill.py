"""Two ways to fill a reference cache: with a model's encoders, or from embeddings of any model."""

import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from jest_tf.data import pipeline
from jest_tf.data.fields import hash64
from jest_tf.data.formats.files import find, open_binary, open_parquet
from jest_tf.data.manifest import Manifest
from jest_tf.data.records import shard_records
from jest_tf.data.reference_cache import CacheWriter, unit_norm
from jest_tf.data.sorted_runs import SortedRuns
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError, explaining
from jest_tf.model_record import PixelRule


def embed(
    writer: CacheWriter,
    tokenizer: Tokenizer,
    encode_image: Callable[[tf.Tensor], np.ndarray],
    encode_text: Callable[[tf.Tensor], np.ndarray],
    *,
    image_size: int,
    pixels: PixelRule = PixelRule(),
    batch_size: int = 256,
    shards: Sequence[int] | None = None,
) -> None:
    """Embeds the records of these shards; by default of all that are not in the cache yet.

    Each shard begins a batch, so what is stored does not depend on which others are embedded.
    encode_image: uint8 [batch_size, S, S, 3] -> unit-norm [batch_size, d]; encode_text: int32
    [batch_size, n_tokens] likewise.
    """

    def rows(whole: Manifest, index: int) -> Iterator[tuple]:
        manifest = whole.with_shards([whole.shards[index]])
        how = {"image_size": image_size, "pixels": pixels}
        batches = pipeline.in_order(manifest, tokenizer, batch_size, **how)
        captions = [record.captions for record in shard_records(manifest, 0, pictures=False)]
        ztxt = _embed_texts(captions, tokenizer, encode_text, batch_size)
        images = itertools.chain.from_iterable(
            zip(_known(encode_image(b["image"]), b), b["id"].numpy(), strict=True) for b in batches
        )
        for z, texts, (zimg, record_id) in zip(ztxt, captions, images, strict=False):
            yield record_id, zimg, z, texts

    writer.fill(rows, shards, f"embedding {writer.manifest.name}")


def _known(zimg: tf.Tensor, batch: dict[str, tf.Tensor]) -> np.ndarray:
    """`zimg` [n, d], 0 where there was no picture: whoever reads the cache alone can tell."""
    black = ~tf.reduce_any(batch["image"] != 0, axis=[1, 2, 3])
    return tf.where((~batch["valid"] & black)[:, None], 0.0, zimg).numpy()


def _embed_texts(captions, tokenizer, encode_text, batch_size) -> list[np.ndarray]:
    """ztxt [max(1, captions), d] per record; texts go through the model in full batches."""
    texts = [text for record in captions for text in (record or [b""])]
    padded = texts + [b""] * (-len(texts) % batch_size)
    parts = [
        np.asarray(encode_text(tokenizer(tf.constant(padded[at : at + batch_size]))))
        for at in range(0, len(padded), batch_size)
    ]
    flat = np.concatenate(parts)
    ends = np.cumsum([max(1, len(record)) for record in captions])
    return np.split(flat[: ends[-1]], ends[:-1])


class StoredEmbeddings:
    """Embeddings of any model in .npz and .parquet files, of width `dim`, found by id.

    Each file has `id` [n] (of the manifest's records), `zimg` [n, d] and `ztxt` [n, d], or [n,
    captions, d] (Parquet: a list per caption). Nothing of a record is held: embeddings are read by
    row group (an .npz as a whole). UserError: a file that is neither, or without these arrays.
    """

    def __init__(self, files: Sequence[str], dim: int):
        self._dim = dim
        found = find(files, (".npz", ".parquet"))
        self.parts: list[tuple[str, int]] = []
        self.places = SortedRuns()
        for name, _, _ in found.files:
            path = found.path(name)
            if not path.endswith((".npz", ".parquet")):
                raise UserError(f"{path}: expected .npz or .parquet")
            n_groups = 1
            if path.endswith(".parquet"):
                with open_parquet(path) as file:
                    n_groups = file.num_row_groups
            for group in range(n_groups):
                ids = np.asarray(_read_part(path, group, ("id",))["id"], np.int64)
                self.places.add(ids, len(self.parts))
                self.parts.append((path, group))
        zimg, _ = self._load(0)  # wrong widths are told at once
        # A cache that was begun with other files is not gone on with.
        told = [(os.path.basename(name), n_bytes) for name, n_bytes, _ in found.files]
        start = np.ascontiguousarray(zimg[:16], np.float32).tobytes()
        self.fingerprint = f"{hash64(json.dumps(told).encode() + start) % 2**64:016x}"

    def rows(self, manifest: Manifest, shard: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(id, zimg [d], ztxt [captions, d]) of unit norm for each record of a shard.

        UserError: a record without embedding or with another number of captions.
        """
        read = shard_records(manifest, shard, pictures=False)
        records = [(record.id, len(record.captions)) for record in read]
        wanted = np.array([record_id for record_id, _ in records], np.int64)
        parts, rows = self.places.find(wanted)
        if (parts < 0).any():
            raise UserError(
                f"record {wanted[parts < 0][0]} of {manifest.shards[shard].path} has no embedding "
                f"in {self.parts[0][0]} (and {len(self.parts) - 1} more parts). Embed it, or "
                "prepare the data without it."
            )
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for part in np.unique(parts):  # each is read once a shard
            zimg, ztxt = self._load(int(part))
            for number in np.flatnonzero(parts == part):
                row = rows[number]
                found[int(number)] = unit_norm(zimg[row]), unit_norm(np.atleast_2d(ztxt[row]))
        unusable = []
        for number, (record_id, n_captions) in enumerate(records):
            zimg, ztxt = found.pop(number)
            if not (np.isfinite(zimg).all() and np.isfinite(ztxt).all()):
                unusable.append(record_id)
            if len(ztxt) != max(1, n_captions):
                raise UserError(
                    f"record {record_id} has {n_captions} captions but {len(ztxt)} text "
                    "embeddings; expected one each, in the record's order"
                )
            yield record_id, zimg, ztxt
        if unusable:
            logging.warning(
                "the embeddings of %d records of %s hold what is no number (first: record %d). "
                "These records are never selected.",
                len(unusable), manifest.shards[shard].path, unusable[0],
            )  # fmt: skip

    @functools.lru_cache(maxsize=2)  # noqa: B019  lives as long as the cache is filled
    def _load(self, part: int) -> tuple[np.ndarray, Sequence[np.ndarray]]:
        path, group = self.parts[part]
        columns = _read_part(path, group, ("zimg", "ztxt"))
        zimg, ztxt = columns["zimg"], columns["ztxt"]
        widths = {row.shape[-1] for rows in (zimg, ztxt) for row in rows}
        if widths != {self._dim}:
            raise UserError(f"{path}: embeddings of width {sorted(widths)}; expected {self._dim}")
        return zimg, ztxt


def _read_part(path: str, group: int, names: Sequence[str]) -> dict:
    """Columns of a row group, or arrays of an .npz; UserError: they are missing or unreadable."""
    with explaining(
        (OSError, ValueError),
        f"{path} cannot be read ({{error}}); expected plain arrays. Where records have "
        "different numbers of captions, use Parquet.",
    ):
        if path.endswith(".npz"):
            with open_binary(path) as file, np.load(file, allow_pickle=False) as arrays:
                _require(path, arrays.files)
                return {name: arrays[name] for name in names}
        with open_parquet(path) as file:
            _require(path, file.schema_arrow.names)
            table = file.read_row_group(group, columns=list(names))
            return {name: _from_arrow(table[name].combine_chunks()) for name in names}


def _require(path: str, names: Sequence[str]) -> None:
    if missing := {"id", "zimg", "ztxt"} - set(names):
        raise UserError(f"{path}: no {sorted(missing)}; expected id, zimg and ztxt")


def _from_arrow(column) -> np.ndarray | list[np.ndarray]:
    """A column of numbers as [n]; of equal lists as [n, d]; of other lists, one array each."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_nested(column.type):
        return column.to_numpy(zero_copy_only=False)
    inner = _from_arrow(column.flatten())
    if isinstance(inner, list):
        raise ValueError("embeddings of different widths")
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    if not len(lengths) or (lengths == lengths[0]).all():
        return np.reshape(inner, (len(lengths), -1, *np.shape(inner)[1:]))
    return np.split(inner, np.cumsum(lengths)[:-1].astype(int))
