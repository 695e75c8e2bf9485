"""Folders that appear whole or not at all, written beside their place and renamed into it."""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from jest_tf.files import sync

STAGING_PREFIX = ".staging-"
Digest = dict[str, Any]  # sha256 (hex) and n_bytes of a file


class HashingWriter:
    """A write-only stream, strictly forwards, that knows the digest of its bytes."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self._sha256, self._n_bytes = stream, hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self._sha256.update(data)
        self._stream.write(data)
        self._n_bytes += len(data)

    def digest(self) -> Digest:
        return {"sha256": self._sha256.hexdigest(), "n_bytes": self._n_bytes}


def digest(path: Path) -> Digest:
    """What `HashingWriter` says of the bytes that lie in a file."""
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {"sha256": sha256, "n_bytes": file.tell()}


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[HashingWriter]:
    """Opens a new file for writing; on leaving the block the bytes are on the disk."""
    with open(path, "xb") as file:
        yield HashingWriter(file)
        file.flush()
        os.fsync(file.fileno())


def stage(folder: Path, token: str = "") -> Path:
    """Makes a place to write the files of `folder` in.

    token: the same for several writers that share the place; without, it is new.
    """
    staged = _beside(folder, token or secrets.token_hex(4))
    staged.mkdir(parents=True, exist_ok=bool(token))
    return staged


def publish(staged: Path, folder: Path) -> None:
    """Makes the staged files visible as `folder`, all or nothing, replacing what was there."""
    sync(staged)
    if folder.is_dir():
        remove(folder)
    os.rename(staged, folder)
    sync(folder.parent)


def remove(folder: Path) -> None:
    """Removes `folder`; a reader never takes a half-removed one for a finished save."""
    hidden = _beside(folder, secrets.token_hex(4))
    os.rename(folder, hidden)
    shutil.rmtree(hidden)


def sweep(root: Path, token: str = "") -> None:
    """Removes the stages that an interrupted writer left, not those of writers with this token.

    Only the writer may call this, the first of several.
    """
    for staged in root.glob(f"{STAGING_PREFIX}*"):
        if not (token and staged.name.endswith(f"-{token}")):
            shutil.rmtree(staged)


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f"{STAGING_PREFIX}{folder.name}-{ending}")
