"""Two ways to fill a reference cache: with a model's encoders, or from embeddings of any model."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from jest_tf.data import importers, pipeline
from jest_tf.data.manifest import Manifest
from jest_tf.data.records import shard_rows
from jest_tf.data.reference_cache import CacheWriter
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.errors import UserError
from jest_tf.model_record import PixelRule


def embed(
    writer: CacheWriter,
    tokenizer: Tokenizer,
    encode_image: Callable[[tf.Tensor], tf.Tensor],
    encode_text: Callable[[tf.Tensor], tf.Tensor],
    *,
    image_size: int,
    pixels: PixelRule = PixelRule(),
    batch_size: int = 256,
    part: int = 0,
    parts: int = 1,
    report: Callable[[str], None] = print,
) -> None:
    """Embeds every record that is not in the cache yet, shard by shard, so that it resumes.

    Args:
        encode_image: uint8 [batch_size, image_size, image_size, 3] -> unit-norm [batch_size, d].
        encode_text: int32 [batch_size, n_tokens] -> unit-norm [batch_size, d].
        part, parts: do every `parts`-th shard from `part` on, to spread the work.
        report: gets a line of progress per shard.
    """
    missing = writer.missing_shards(part, parts)
    if not missing:
        return
    manifest = _subset(writer.manifest, missing)
    images = _rows(
        (encode_image(batch["image"]).numpy(), batch["id"].numpy())
        for batch in pipeline.evaluation_batches(
            manifest, tokenizer, batch_size, image_size, pixels
        )
    )
    start, done = time.time(), 0
    for shard, index in enumerate(missing):
        captions = [texts for _, _, texts in shard_rows(manifest, shard)]
        ztxt = _embed_texts(captions, tokenizer, encode_text, batch_size)
        pairs = zip(ztxt, images, strict=False)  # texts first: images go on in the next shard
        writer.write_shard(index, ((rid, zimg, texts) for texts, (zimg, rid) in pairs))
        done += manifest.shards[shard].records
        rate = done / (time.time() - start)
        left = (manifest.n_records - done) / rate
        report(
            f"reference cache: shard {shard + 1}/{len(missing)}, {done:,}/{manifest.n_records:,} "
            f"records, {rate:,.0f} records/s, {left:,.0f} s left"
        )


def import_embeddings(
    writer: CacheWriter, files: Sequence[str], report: Callable[[str], None] = print
) -> None:
    """Fills a cache from .npz or .parquet files of any model's embeddings.

    Each file has `id` [n] (the ids of the manifest's records), `zimg` [n, d] and `ztxt` [n, d], or
    [n, captions, d] (Parquet: a list per caption) where records have several captions. They are
    brought to unit norm.

    Raises:
        UserError: missing columns, other widths, a record without embedding, or with another
            number of captions.
    """
    ids, zimg, ztxt = _load_embeddings(files, writer.cache.dim)
    order = np.argsort(ids, kind="stable")
    sorted_ids = ids[order]
    repeated = int((np.diff(sorted_ids) == 0).sum())
    report(f"{len(ids):,} embeddings in {len(files)} files; {repeated:,} ids repeat (first kept)")

    def rows(shard: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for record_id, _, captions in shard_rows(writer.manifest, shard):
            at = int(np.searchsorted(sorted_ids, record_id))
            if at == len(sorted_ids) or sorted_ids[at] != record_id:
                raise UserError(
                    f"record {record_id} of {writer.manifest.shards[shard].path} has no embedding "
                    f"in {files[0]} (and {len(files) - 1} more). Embed it, or prepare the data "
                    "without it."
                )
            row = order[at]
            if len(ztxt[row]) != max(1, len(captions)):
                raise UserError(
                    f"record {record_id} has {len(captions)} captions but {len(ztxt[row])} text "
                    "embeddings; expected one each, in the record's order"
                )
            yield record_id, zimg[row], ztxt[row]

    for shard in writer.missing_shards():
        writer.write_shard(shard, rows(shard))


def _subset(manifest: Manifest, indices: Sequence[int]) -> Manifest:
    """These shards alone, with the sources that they have."""
    shards = [manifest.shards[i] for i in indices]
    used = sorted({shard.source for shard in shards})
    return dataclasses.replace(
        manifest,
        sources=tuple(dataclasses.replace(manifest.sources[s], weight=None) for s in used),
        shards=tuple(dataclasses.replace(s, source=used.index(s.source)) for s in shards),
    )


def _rows(batches: Iterator[tuple[np.ndarray, ...]]) -> Iterator[tuple]:
    for batch in batches:
        yield from zip(*batch, strict=True)


def _embed_texts(captions, tokenizer, encode_text, batch_size) -> list[np.ndarray]:
    """ztxt [max(1, captions), d] per record; texts go through the model in full batches."""
    texts = [text for record in captions for text in (record or [b""])]
    padded = texts + [b""] * (-len(texts) % batch_size)
    parts = [
        encode_text(tokenizer(tf.constant(padded[at : at + batch_size]))).numpy()
        for at in range(0, len(padded), batch_size)
    ]
    flat = np.concatenate(parts)
    ends = np.cumsum([max(1, len(record)) for record in captions])
    return np.split(flat[: ends[-1]], ends[:-1])


def _load_embeddings(files: Sequence[str], dim: int):
    """(ids int64 [n], zimg float32 [n, d], list of ztxt float32 [captions, d])."""
    all_ids, all_zimg, all_ztxt = [], [], []
    for path in importers.expand(files):
        columns = _read_columns(path)
        missing = {"id", "zimg", "ztxt"} - set(columns)
        if missing:
            raise UserError(f"{path}: no {sorted(missing)}; expected id, zimg and ztxt")
        zimg = np.asarray(columns["zimg"], np.float32)
        ztxt = [np.atleast_2d(np.asarray(row, np.float32)) for row in columns["ztxt"]]
        widths = {zimg.shape[-1]} | {row.shape[-1] for row in ztxt}
        if widths != {dim}:
            raise UserError(f"{path}: embeddings of width {sorted(widths)}; expected {dim}")
        all_ids.append(np.asarray(columns["id"], np.int64))
        all_zimg.append(_unit(zimg))
        all_ztxt += [_unit(row) for row in ztxt]
    return np.concatenate(all_ids), np.concatenate(all_zimg), all_ztxt


def _read_columns(path: str) -> dict:
    if path.endswith(".npz"):
        try:
            with np.load(importers.random_access(path), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (ValueError, OSError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); expected plain arrays. Where records have "
                "different numbers of captions, use Parquet."
            ) from error
    if path.endswith(".parquet"):
        import pyarrow.parquet as pq

        table = pq.read_table(importers.random_access(path))
        return {name: table[name].to_pylist() for name in table.column_names}
    raise UserError(f"{path}: expected .npz or .parquet")


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)
