"""Files that a reader finds whole or not at all, on a disk or in a bucket."""

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jest_tf.errors import UserError, explaining


def write_atomically(path: str | os.PathLike, data: bytes | str) -> None:
    """Replaces the file by `data` (text as UTF-8). Several processes may do so at once."""
    folder, _, name = os.fspath(path).rpartition("/")
    aside = f"{folder + '/' if folder else ''}.{name}.{secrets.token_hex(4)}"
    with replacing(path, aside) as aside, _open(aside) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def parse_json(text: str | bytes) -> Any:
    """`json.loads`; ValueError also for a text nested thousands of levels deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: str | os.PathLike) -> Any:
    """Content of a local file; UserError: it cannot be read as JSON."""
    text = f"{path} cannot be read as JSON: {{error}}. Restore it from a copy."
    with explaining((OSError, ValueError), text), open(path, encoding="utf-8") as file:
        return parse_json(file.read())


def read_object(path: str | os.PathLike, of: str) -> dict[str, Any]:
    """Content of a local file that holds one JSON object; UserError: it holds no `of`."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no {of}, but {str(content)[:80]!r}. Restore it.")
    return content


@contextlib.contextmanager
def replacing(path: str | os.PathLike, aside: str | None = None) -> Iterator[str]:
    """Gives a path to write to, whose file takes the place of `path` when the block ends well.

    On a disk the content and the name are durable before the block is left. By default the place
    to write to is `PATH.incomplete`: what a killed writer left there is written over.
    """
    path = os.fspath(path)
    aside = aside or f"{path}.incomplete"
    try:
        yield aside
        put_in_place(aside, path)
    except BaseException:
        if "://" not in path:
            with contextlib.suppress(OSError):
                os.unlink(aside)
        raise


def writing(path: str | os.PathLike) -> contextlib.AbstractContextManager:
    """Turns an OSError of the block, which writes to `path`, into a UserError."""
    text = f"{path} cannot be written: {{error}}. Free disk space or fix the permissions, then "
    text += "rerun the same command; it continues from the newest checkpoint."
    return explaining(OSError, text)


def step_name(step: int) -> str:
    """What the files of a step are called; sorts by name up to 99,999,999 steps."""
    return f"step-{step:08d}"


def step_file(folder: str | os.PathLike, step: int) -> Path:
    """The file of a step in a folder that has one .npz for some steps."""
    return Path(folder) / f"{step_name(step)}.npz"


def steps_with_file(folder: str | os.PathLike) -> list[int]:
    """Steps with a `step_file`, ascending; none in a folder that is not there."""
    names = (re.fullmatch(r"step-(\d{8,})", p.stem) for p in Path(folder).glob("*.npz"))
    return sorted(int(match[1]) for match in names if match)


def put_in_place(aside: str, path: str) -> None:
    """Renames `aside` to `path`. On a disk, content and name are durable afterwards."""
    if "://" in path:
        import tensorflow as tf  # for buckets only

        tf.io.gfile.rename(aside, path, overwrite=True)
        return
    sync(aside)
    os.replace(aside, path)
    sync(os.path.dirname(path) or ".")


def claimed_folder(folder: str, identity: dict) -> None:
    """Makes a local folder for work in parts; removes what belongs to another identity."""
    path, wanted = f"{folder}/identity.json", json.dumps(identity, sort_keys=True)
    if os.path.exists(path):
        with open(path) as file:
            if file.read() == wanted:
                return
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    write_atomically(path, wanted)


def sync(path: str | os.PathLike) -> None:
    """Brings a file's content, or a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _open(path: str):
    if "://" in path:
        import tensorflow as tf

        return tf.io.gfile.GFile(path, "wb")
    return open(path, "wb")
