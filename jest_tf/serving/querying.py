"""Searches an image index by text or by image, and shows what was found."""

import io
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from jest_tf.data.cleaning import check_images, open_image
from jest_tf.errors import UserError
from jest_tf.pages.contact_sheet import Hit, Row, contact_sheet
from jest_tf.serving.encoders import ExportEncoder
from jest_tf.serving.image_index import ImageIndex, Item

SHEET_FILE, RESULTS_FILE = "contact_sheet.png", "results.json"
MAX_SHEET_COLUMNS = 20
AT_ONCE = 64  # queries: a million rows then take 256 MB of scores


class ExactSearch:
    """Finds the rows of float32 [n, d] with the highest dot product, all of them compared.

    A memory map is read once; the rows then lie on the device.
    """

    def __init__(self, embeddings: np.ndarray):
        self._rows = tf.constant(embeddings)
        queries = tf.TensorSpec([None, embeddings.shape[1]], tf.float32)
        self._search = tf.function(
            lambda queries, k: tf.math.top_k(tf.matmul(queries, self._rows, transpose_b=True), k),
            input_signature=[queries, tf.TensorSpec([], tf.int32)],
            autograph=False,
        )

    def __call__(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores float32 [q, k] in falling order, rows int32 [q, k]) of queries float32 [q, d].

        Of equal scores the lower row comes first; fewer than k if there are fewer rows.
        """
        queries, k = np.asarray(queries, np.float32), tf.constant(min(k, len(self._rows)))
        starts = range(0, max(len(queries), 1), AT_ONCE)
        found = [self._search(tf.constant(queries[i : i + AT_ONCE]), k) for i in starts]
        scores, rows = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return scores, rows


class Searcher:
    """An index and its model, loaded once and asked as often as one likes.

    model_path: by default the export that built the index. encoders: fingerprint -> model; one of
    these is used if it built the index, a model that is loaded is added. UserError: no index, an
    empty one, no export, or one that did not build the index.
    """

    def __init__(
        self,
        index_path: str | os.PathLike,
        model_path: str | None = None,
        encoders: dict[str, ExportEncoder] | None = None,
    ):
        started = time.monotonic()
        self.index = ImageIndex.open(index_path)
        if not len(self.index):
            raise UserError(f"the image index in {index_path} is empty: add images to it")
        built_by = self.index.meta["model"]
        self.encoder = (encoders or {}).get(built_by["fingerprint"])
        if self.encoder is None:
            where = model_path or built_by["path"]
            if not model_path and not Path(where).exists():
                raise UserError(
                    f"the index in {index_path} was built by the model in {where}, which is not "
                    "there: give --model=EXPORT, the place where it lies now"
                )
            self.encoder = ExportEncoder(where)
            self.index.require_model(self.encoder.fingerprint, self.encoder.path)
        if encoders is not None:
            encoders[self.encoder.fingerprint] = self.encoder
        self._search = ExactSearch(self.index.embeddings())
        self._search(self.encoder.encode_text([""]), 1)  # builds the graphs, so that no query does
        self.load_seconds = time.monotonic() - started

    def find(self, texts: Sequence[str], images: Sequence[str], k: int) -> dict[str, Any]:
        """The k nearest images of each query, by cosine similarity, all images compared.

        images: paths. JSON-serialisable: `queries`, texts first, each {text or image, results:
        [{rank, score, id, label}]}; `index`, `model`, `n_images`, `seconds`. UserError: an
        unreadable image.
        """
        started = time.monotonic()
        queries = [{"text": text} for text in texts] + [{"image": path} for path in images]
        embeddings = [self.encoder.encode_text(list(texts))] if texts else []
        if images:
            try:
                checked = check_images([Path(path).read_bytes() for path in images])
            except OSError as error:
                problem = f"--image={error.filename} cannot be read: {error.strerror}"
                raise UserError(problem) from error
            zimg, ok = self.encoder.encode_image_bytes([encoded for encoded, _, _ in checked])
            if not ok.all():
                at = int(np.argmin(ok))
                raise UserError(
                    f"--image={images[at]} is no JPEG, PNG, GIF, BMP, WebP, TIFF or AVIF, or it is "
                    f"damaged: {checked[at][2] or 'the decoder of the model refuses it'}"
                )
            embeddings.append(zimg)
        for query, hits in zip(queries, self.nearest(np.concatenate(embeddings), k), strict=True):
            query["results"] = hits
        return {
            "index": str(self.index.path),
            "model": self.index.meta["model"],
            "n_images": len(self.index),
            "queries": queries,
            "seconds": {"load": self.load_seconds, "query": time.monotonic() - started},
        }

    def nearest(self, embeddings: np.ndarray, k: int) -> list[list[dict[str, Any]]]:
        """The k nearest images of each embedding [q, d], best first: {rank, score, id, …}."""
        found = zip(*self._search(embeddings, k), strict=True)
        items = self.index.items
        return [
            [
                {"rank": rank, "score": float(score), "id": items[row].id,
                 "label": items[row].label, "row": int(row)}
                for rank, score, row in zip(range(1, k + 1), scores, rows, strict=False)
            ]
            for scores, rows in found
        ]  # fmt: skip

    def picture(self, item: Item, max_side: int | None = None) -> Image.Image | None:
        """The picture of an item, from the index or its file; None if it cannot be read."""
        jpeg = self.index.thumbnail(item)
        if jpeg is None:
            return open_image(Path(item.id).open, max_side)
        return open_image(lambda mode: io.BytesIO(jpeg), max_side)

    def write(self, folder: str | os.PathLike, found: dict[str, Any]) -> tuple[Path, Path]:
        """Writes the contact sheet and the JSON of `find`; returns their paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        title = f"{found['n_images']:,} images in {Path(found['index']).name}"
        sheet = contact_sheet([self._sheet_row(query) for query in found["queries"]], title)
        sheet.save(folder / SHEET_FILE)
        content = json.dumps(found, indent=1, ensure_ascii=False)
        path = folder / RESULTS_FILE
        path.write_text(content + "\n", encoding="utf-8", errors="backslashreplace")
        return folder / SHEET_FILE, folder / RESULTS_FILE

    def _sheet_row(self, query: dict[str, Any]) -> Row:
        hits = []
        for hit in query["results"][:MAX_SHEET_COLUMNS]:
            item = self.index.items[hit["row"]]
            is_path = item.id.endswith(item.label)  # Of a data set the label is a caption.
            hits.append(Hit(self.picture(item), hit["score"], hit["label"], is_name=is_path))
        if "text" in query:
            return Row(query["text"], hits)
        return Row(Path(query["image"]).name, hits, open_image(Path(query["image"]).open))
