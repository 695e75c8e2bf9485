"""Where checkpoints lie: a local folder with atomic renames, or an object store without.

Both give the same promise to a reader: a folder with a `manifest.json` is a finished save.
"""

import contextlib
import dataclasses
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from typing import IO

import tensorflow as tf

from jest_tf.files import sync

MANIFEST = "manifest.json"
STAGING_PREFIX = ".staging-"
BLOCK_BYTES = 1 << 22


@dataclasses.dataclass(frozen=True)
class BytesDigest:
    """What a file must be: SHA-256 in hex, and its length."""

    sha256: str
    n_bytes: int


class HashingWriter:
    """A write-only stream, strictly forwards, that knows SHA-256 and length of its bytes."""

    def __init__(self, stream: IO[bytes]):
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self.n_bytes = 0

    def write(self, data: bytes) -> int:
        data = memoryview(data).cast("B")
        for start in range(0, len(data), BLOCK_BYTES):
            block = data[start : start + BLOCK_BYTES].tobytes()
            self._sha256.update(block)
            self._stream.write(block)
        self.n_bytes += len(data)
        return len(data)

    def flush(self) -> None:
        self._stream.flush()

    def digest(self) -> BytesDigest:
        return BytesDigest(self._sha256.hexdigest(), self.n_bytes)


def digest(stream: IO[bytes]) -> BytesDigest:
    """Checksum and length of everything left in `stream`, read in blocks."""
    sha256, n_bytes = hashlib.sha256(), 0
    while block := stream.read(BLOCK_BYTES):
        sha256.update(block)
        n_bytes += len(block)
    return BytesDigest(sha256.hexdigest(), n_bytes)


class LocalStorage:
    """A folder on a file system whose rename is atomic."""

    def __init__(self, root: str | os.PathLike):
        self.root = os.fspath(root)

    def folders(self) -> list[str]:
        """Names of the folders below the root, unfinished stages excluded."""
        if not os.path.isdir(self.root):
            return []
        return [entry.name for entry in os.scandir(self.root) if not entry.name.startswith(".")]

    def has(self, folder: str, name: str) -> bool:
        return os.path.isfile(os.path.join(self.root, folder, name))

    def stage(self, folder: str, token: str = "") -> str:
        """Make a place to write the files of `folder` in; returns its name.

        token: the same for several writers that share the place; without, it is new.
        """
        staged = f"{STAGING_PREFIX}{folder}-{token or secrets.token_hex(4)}"
        os.makedirs(os.path.join(self.root, staged), exist_ok=bool(token))
        return staged

    @contextlib.contextmanager
    def write(self, folder: str, name: str) -> Iterator[HashingWriter]:
        """Open `folder/name` for writing; on leaving the block the bytes are on the disk."""
        with open(os.path.join(self.root, folder, name), "xb") as file:
            yield HashingWriter(file)
            file.flush()
            os.fsync(file.fileno())

    def read(self, folder: str, name: str) -> IO[bytes]:
        """Open `folder/name` for reading, seekable."""
        return open(os.path.join(self.root, folder, name), "rb")

    def publish(self, staged: str, folder: str) -> None:
        """Make the staged files visible as `folder`, all or nothing, replacing what was there."""
        sync(os.path.join(self.root, staged))
        if os.path.isdir(os.path.join(self.root, folder)):
            self.remove(folder)
        os.rename(os.path.join(self.root, staged), os.path.join(self.root, folder))
        sync(self.root)

    def remove(self, folder: str) -> None:
        """Remove `folder`; a reader never takes a half-removed one for a finished save."""
        path = os.path.join(self.root, folder)
        if not folder.startswith(STAGING_PREFIX):
            hidden = os.path.join(self.root, f"{STAGING_PREFIX}{folder}-{secrets.token_hex(4)}")
            os.rename(path, hidden)
            path = hidden
        shutil.rmtree(path)

    def sweep(self, token: str = "") -> None:
        """Remove the stages that an interrupted writer left, not those of writers with this token.

        Only the writer may call this, the first of several.
        """
        if not os.path.isdir(self.root):
            return
        for entry in os.scandir(self.root):
            is_ours = token and entry.name.endswith(f"-{token}")
            if entry.name.startswith(STAGING_PREFIX) and not is_ours:
                shutil.rmtree(entry.path)


class RemoteStorage:
    """As LocalStorage, through tf.io.gfile (gs://). Nothing is atomic but a single file.

    So files are written in place, the manifest last, and removed manifest first.
    """

    def __init__(self, root: str):
        self.root = root.rstrip("/")

    def _path(self, *names: str) -> str:
        return "/".join((self.root, *names))

    def folders(self) -> list[str]:
        if not tf.io.gfile.exists(self.root):
            return []
        return [name.rstrip("/") for name in tf.io.gfile.listdir(self.root)]

    def has(self, folder: str, name: str) -> bool:
        return tf.io.gfile.exists(self._path(folder, name))

    def stage(self, folder: str, token: str = "") -> str:
        if token and self.has(folder, MANIFEST):  # what else is there, others may have written now
            tf.io.gfile.remove(self._path(folder, MANIFEST))
        elif not token and tf.io.gfile.exists(self._path(folder)):
            self.remove(folder)
        tf.io.gfile.makedirs(self._path(folder))
        return folder

    @contextlib.contextmanager
    def write(self, folder: str, name: str) -> Iterator[HashingWriter]:
        with tf.io.gfile.GFile(self._path(folder, name), "wb") as file:
            yield HashingWriter(file)

    def read(self, folder: str, name: str) -> IO[bytes]:
        return tf.io.gfile.GFile(self._path(folder, name), "rb")

    def publish(self, staged: str, folder: str) -> None:
        """Nothing to do: the manifest, written last, has already made the folder a checkpoint."""

    def remove(self, folder: str) -> None:
        if self.has(folder, MANIFEST):
            tf.io.gfile.remove(self._path(folder, MANIFEST))
        tf.io.gfile.rmtree(self._path(folder))

    def sweep(self, token: str = "") -> None:
        """Nothing to do: an unfinished save has no manifest and is overwritten by the next one."""


def open_storage(root: str | os.PathLike) -> LocalStorage | RemoteStorage:
    """The storage for a path: anything with a scheme (`gs://…`) is remote."""
    root = os.fspath(root)
    return RemoteStorage(root) if "://" in root else LocalStorage(root)
