"""An image index on disk: plain arrays, appended to, readable by anything.

    embeddings.npy   float32 [n, d], unit-norm rows
    items.jsonl      line i describes row i: {id, label, version, thumbnail}
    thumbnails.bin   small JPEGs, where the images themselves are not files
    meta.json        {n, d, model, ...}: written last, so it tells what of the others is complete

Rows beyond meta.json's `n` are what an interrupted run has left; the next one overwrites them.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jest_tf.errors import UserError, explaining
from jest_tf.files import parse_json, write_atomically

FORMAT = 1
EMBEDDINGS, ITEMS = "embeddings.npy", "items.jsonl"
THUMBNAILS, META = "thumbnails.bin", "meta.json"
_HEADER_BYTES = 128


@dataclasses.dataclass
class Item:
    """What one row stands for."""

    id: str  # a file's absolute path or `tfds:…#number`
    label: str = ""  # shown under the image
    version: str = ""  # changes when the file does
    thumbnail: list[int] | None = None  # offset, length in thumbnails.bin; None: the image is `id`


class ImageIndex:
    """An index in a folder, to read and to add to: an Item per row, and what meta.json says."""

    def __init__(self, path: Path, meta: dict[str, Any], items: list[Item]):
        self.path, self.meta, self.items = path, meta, items
        self.row_of = {item.id: row for row, item in enumerate(items)}

    @classmethod
    def create(cls, path: str | os.PathLike, d: int, model: dict[str, Any]) -> "ImageIndex":
        """An empty index for embeddings [n, d] of `model` ({path, fingerprint, …})."""
        path = Path(path)
        if path.exists() and any(path.iterdir()):
            raise UserError(f"--out={path} holds other files and no index; give an empty folder")
        path.mkdir(parents=True, exist_ok=True)
        for name in (EMBEDDINGS, ITEMS, THUMBNAILS):
            (path / name).write_bytes(b"")
        index = cls(path, {"format": FORMAT, "n": 0, "d": d, "model": model}, [])
        index._commit()
        return index

    @classmethod
    def open(cls, path: str | os.PathLike) -> "ImageIndex":
        """Opens an index; UserError: none there, another format, or damaged."""
        path = Path(path)
        try:
            meta = parse_json((path / META).read_text())
            with open(path / ITEMS, encoding="utf-8") as lines:
                items = [
                    Item(**parse_json(line))
                    for _, line in zip(range(meta["n"]), lines, strict=False)
                ]
            meta["model"]["path"], meta["model"]["fingerprint"]
            n_rows = (os.path.getsize(path / EMBEDDINGS) - _HEADER_BYTES) // (4 * meta["d"])
        except FileNotFoundError as error:
            raise UserError(
                f"no image index in {path} ({Path(error.filename).name} is missing). Make one: "
                "python -m jest_tf.retrieve index --images=DIR --model=EXPORT --out=DIR"
            ) from error
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            raise UserError(
                f"the image index in {path} is damaged: {type(error).__name__}: {error}. Delete "
                "the folder and index again."
            ) from error
        if meta.get("format") != FORMAT:
            raise UserError(f"{path} has index format {meta.get('format')}, expected {FORMAT}")
        if len(items) < meta["n"] or n_rows < meta["n"]:
            raise UserError(
                f"the image index in {path} is damaged: {META} speaks of {meta['n']} rows, {ITEMS} "
                f"has {len(items)} and {EMBEDDINGS} {n_rows}. Delete the folder and index again."
            )
        return cls(path, meta, items)

    def __len__(self) -> int:
        return len(self.items)

    def require_model(self, fingerprint: str, where: str) -> None:
        """Raises UserError unless the index was built by the model with this fingerprint."""
        built_by = self.meta["model"]
        if built_by["fingerprint"] != fingerprint:
            raise UserError(
                f"the index in {self.path} was built by another model: {built_by['path']} with "
                f"fingerprint {built_by['fingerprint']}, but {where} has {fingerprint}. Embeddings "
                "of two models cannot be compared: index the images again into a new folder, or "
                "pass --model=EXPORT of the model that built it."
            )

    def embeddings(self) -> np.ndarray:
        """float32 [n, d], memory-mapped."""
        if not self.items:
            return np.zeros((0, self.meta["d"]), np.float32)
        path, expected = self.path / EMBEDDINGS, f"float32 [{len(self)}, {self.meta['d']}]"
        text = (
            f"{path} is damaged: {{error}}; expected {expected}. Delete the folder and index again."
        )
        with explaining(ValueError, text):
            rows = np.load(path, mmap_mode="r", allow_pickle=False)[: len(self)]
            if rows.dtype != np.float32 or rows.shape != (len(self), self.meta["d"]):
                raise ValueError(f"it holds {rows.dtype} {list(rows.shape)}")
        return rows

    def is_current(self, item: Item) -> bool:
        """Whether the index holds this item in this version."""
        row = self.row_of.get(item.id)
        return row is not None and self.items[row].version == item.version

    def add(
        self, items: Sequence[Item], zimg: np.ndarray, thumbnails: Sequence[bytes] = ()
    ) -> None:
        """Appends rows, or replaces those whose id is known; on disk when it returns.

        k items of different ids, zimg float32 [k, d], k JPEGs or nothing where the items are files.
        """
        with open(self.path / THUMBNAILS, "ab") as file:
            for item, jpeg in zip(items, thumbnails, strict=bool(thumbnails)):
                item.thumbnail = [file.tell(), len(jpeg)]
                file.write(jpeg)
        known = [i for i, item in enumerate(items) if item.id in self.row_of]
        new = [i for i, item in enumerate(items) if item.id not in self.row_of]
        self._write_rows(len(self.items), zimg[new])
        for i in new:
            self.row_of[items[i].id] = len(self.items)
            self.items.append(items[i])
        with open(self.path / ITEMS, "ab") as file:
            file.write(b"".join(_line(items[i]) for i in new))
        for i in known:
            row = self.row_of[items[i].id]
            self._write_rows(row, zimg[i : i + 1])
            self.items[row] = items[i]
        if known:
            self._rewrite_items()
        self._commit()

    def thumbnail(self, item: Item) -> bytes | None:
        """The stored JPEG of an item, or None where its id is a file; empty if it is gone."""
        if item.thumbnail is None:
            return None
        offset, length = item.thumbnail
        try:
            with open(self.path / THUMBNAILS, "rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError:
            return b""

    def _write_rows(self, row: int, zimg: np.ndarray) -> None:
        with open(self.path / EMBEDDINGS, "r+b") as file:
            file.seek(_HEADER_BYTES + row * 4 * self.meta["d"])
            file.write(np.ascontiguousarray(zimg, "<f4").tobytes())

    def _rewrite_items(self) -> None:
        write_atomically(self.path / ITEMS, b"".join(_line(item) for item in self.items))

    def _commit(self) -> None:
        """Makes the rows count: first in the array's header, then in meta.json."""
        self.meta["n"] = len(self.items)
        # The header of the .npy format 1.0, always of one length, so that rows can be appended.
        shape = len(self.items), self.meta["d"]
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        text = text.ljust(_HEADER_BYTES - 11) + "\n"
        with open(self.path / EMBEDDINGS, "r+b") as file:
            file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())
        write_atomically(self.path / META, json.dumps(self.meta, indent=1).encode())

    def drop_uncommitted(self) -> None:
        """Cuts off what an interrupted `add` has left behind; call before adding."""
        os.truncate(self.path / EMBEDDINGS, _HEADER_BYTES + len(self.items) * 4 * self.meta["d"])
        self._rewrite_items()


def _line(item: Item) -> bytes:
    # A byte of a file name that is no UTF-8 becomes JSON's escape of it.
    line = json.dumps(dataclasses.asdict(item), ensure_ascii=False) + "\n"
    return line.encode("utf-8", "backslashreplace")
