"""Readers of the field's formats for `prepare`: each cuts a source into units of work.

A unit can be read alone and in any process; it yields (key, image bytes, captions) or a Rejected.
"""

import csv
import dataclasses
import glob
import io
import itertools
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from jest_tf.data.cleaning import IMAGE_ENDINGS
from jest_tf.errors import UserError
from jest_tf.json_text import parse_json

# Python's own limit, 128 kB, is below what web captions come to.
csv.field_size_limit(1 << 26)
# What TensorFlow raises for a name with a null byte or bytes that are not UTF-8.
NO_FILE_NAME = (ValueError, TypeError)
# An archive may unpack to any size. No picture that training accepts has a larger file.
MAX_MEMBER_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True)
class Pair:
    """One record before it is checked. Captions may be bytes of any encoding."""

    key: str
    image: bytes
    captions: list[bytes]


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A record that cannot be read, with the reason."""

    key: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Unit:
    """A part of a source, named by where it comes from; `read` yields its records."""

    name: str
    read: Callable[[], Iterator[Pair | Rejected]]


def expand(patterns: Sequence[str]) -> list[str]:
    """Files that the paths, globs and folders name, sorted; local or gs://."""
    paths: list[str] = []
    for pattern in patterns:
        found = tf.io.gfile.glob(pattern) if "://" in pattern else glob.glob(pattern)
        if not found:
            raise UserError(f"no file matches {pattern!r}")
        paths += found
    return sorted(paths)


def webdataset(patterns: Sequence[str]) -> list[Unit]:
    """Tars of img2dataset or WebDataset: members KEY.jpg|png|jpeg|webp and KEY.txt (or .json)."""
    return [Unit(path, lambda path=path: _read_tar(path)) for path in expand(patterns)]


def _read_tar(path: str) -> Iterator[Pair | Rejected]:
    key, parts = None, {}
    with tf.io.gfile.GFile(path, "rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r|*") as tar:
                for member in tar:
                    folder, name = os.path.split(member.name)
                    stem, _, ending = name.partition(".")
                    if not member.isfile() or not stem:
                        continue
                    member_key = os.path.join(folder, stem)
                    if member_key != key and parts:
                        yield _tar_record(key, parts)
                        parts = {}
                    key = member_key
                    if member.size > MAX_MEMBER_BYTES:
                        yield Rejected(member_key, f"{name} has {member.size:,} bytes")
                        continue
                    content = tar.extractfile(member).read()
                    if len(content) < member.size:
                        raise tarfile.ReadError(f"unexpected end of data in {member.name}")
                    parts[ending.lower()] = content
        except Exception as error:  # tarfile, zlib and lzma raise many types for damaged archives
            yield Rejected(key or path, f"the tar ends early, its rest is lost: {error}")
            return
    if parts:
        yield _tar_record(key, parts)


def _tar_record(key: str, parts: dict[str, bytes]) -> Pair | Rejected:
    image = next((parts[e[1:]] for e in IMAGE_ENDINGS if e[1:] in parts), None)
    if image is None:
        return Rejected(key, f"no image among {sorted(parts)}")
    captions = [parts["txt"]] if "txt" in parts else []
    if not captions and "json" in parts:
        try:
            caption = parse_json(parts["json"]).get("caption")
        except (ValueError, AttributeError):
            return Rejected(key, "its .json cannot be read")
        captions = [caption.encode()] if caption else []
    return Pair(key, image, captions)


def open_clip_csv(
    patterns: Sequence[str],
    records_per_unit: int,
    image_column: str = "filepath",
    caption_column: str = "title",
    separator: str = "\t",
) -> list[Unit]:
    """open_clip's table: TAB separated, columns `filepath` and `title`, paths relative to it.

    The table is scanned once and never held: a unit remembers where its rows begin.
    """
    units = []
    for path in expand(patterns):
        begin, n = 0, 0
        places = None
        for row, end in _table_rows(path, separator):
            if places is None:
                missing = {image_column, caption_column} - set(row)
                if missing:
                    raise UserError(
                        f"{path}: no column {sorted(missing)}; found {row}. Name them with "
                        "--image_column, --caption_column, --separator."
                    )
                places = row.index(image_column), row.index(caption_column)
                begin = end
                continue
            n += 1
            if n == records_per_unit:
                units.append(_table_unit(path, separator, begin, n, *places))
                begin, n = end, 0
        if places is None:
            raise UserError(f"{path} is empty: expected a table with a header.")
        if n:
            units.append(_table_unit(path, separator, begin, n, *places))
    return units


def _table_rows(path: str, separator: str, begin: int = 0) -> Iterator[tuple[list[str], int]]:
    """(cells, byte after it) of each row of a table from byte `begin` on; a row may span lines.

    Raises:
        UserError: no table.
    """
    end = begin

    def lines() -> Iterator[str]:
        nonlocal end
        while line := file.readline():
            end = file.tell()  # readline leaves out carriage returns: lengths would not add up
            yield line.decode("utf-8", "surrogateescape")

    with tf.io.gfile.GFile(path, "rb") as file:
        file.seek(begin)
        try:
            # The reader takes no line more than a row needs, so `end` is where the next one begins.
            for row in csv.reader(lines(), delimiter=separator):
                if row:
                    yield row, end
        except csv.Error as error:
            raise UserError(f"{path} cannot be read as a table: {error}") from error


def _table_unit(
    path: str, separator: str, begin: int, n: int, image_at: int, caption_at: int
) -> Unit:
    def read() -> Iterator[Pair | Rejected]:
        for row, _ in itertools.islice(_table_rows(path, separator, begin), n):
            if len(row) <= max(image_at, caption_at):
                yield Rejected(row[0][:200], f"a row of {len(row)} cells: too short")
            else:
                yield _read_pair(os.path.dirname(path), row[image_at], [row[caption_at]])

    return Unit(f"{path}:{begin}", read)


def folder(path: str, records_per_unit: int, captions_file: str | None = None) -> list[Unit]:
    """A folder of images with a caption file, or with KEY.txt beside each image.

    The caption file is .csv or .tsv (file name, caption; a header is skipped when its first cell
    names no file), or .jsonl ({"file_name": …, "text": …}, as the hub's imagefolder). Rows of one
    file add up to several captions, so all are held in memory (about 0.4 GB a million); each line
    of a KEY.txt is a caption.
    """
    if not tf.io.gfile.isdir(path):
        raise UserError(f"{path} is not a folder")
    if captions_file is None:
        names = ("metadata.jsonl", "captions.jsonl", "captions.tsv", "captions.csv")
        found = [f"{path}/{name}" for name in names if tf.io.gfile.exists(f"{path}/{name}")]
        captions_file = found[0] if found else None
    captions: dict[str, list[str]] = {}
    if captions_file:
        for name, text in _caption_rows(captions_file, path):
            captions.setdefault(name, []).append(text)
    else:
        for at, _, names in tf.io.gfile.walk(path):
            for name in sorted(names):
                if name.lower().endswith(IMAGE_ENDINGS):
                    relative = os.path.relpath(os.path.join(at, name), path)
                    captions[relative] = []
    if not captions:
        raise UserError(f"{captions_file or path}: no image with a caption found")
    return _file_units(path, path, sorted(captions.items()), records_per_unit)


def _caption_rows(captions_file: str, folder_path: str) -> Iterator[tuple[str, str]]:
    with tf.io.gfile.GFile(captions_file, "rb") as file:
        lines = file.read().decode("utf-8", "surrogateescape").splitlines()
    if captions_file.endswith(".jsonl"):
        for number, line in enumerate(lines, 1):
            try:
                row = parse_json(line)
                yield row["file_name"], row.get("text") or row.get("caption") or ""
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{captions_file} line {number}: expected file_name and text, found "
                    f"{line[:80]!r}"
                ) from error
        return
    separator = "\t" if captions_file.endswith(".tsv") else ","
    for number, row in enumerate(csv.reader(lines, delimiter=separator), 1):
        if len(row) < 2:
            raise UserError(f"{captions_file} line {number}: expected two columns, found {row}")
        if number == 1 and not _exists(os.path.join(folder_path, row[0])):
            continue
        yield row[0], row[1]


def _exists(path: str) -> bool:
    try:
        return tf.io.gfile.exists(path)
    except NO_FILE_NAME:
        return False


def _file_units(
    name: str, base: str, pairs: Sequence[tuple[str, list[str]]], per_unit: int
) -> list[Unit]:
    def reader(part):
        def read():
            for file_name, captions in part:
                yield _read_pair(base, file_name, captions)

        return read

    return [
        Unit(f"{name}:{begin}", reader(pairs[begin : begin + per_unit]))
        for begin in range(0, len(pairs), per_unit)
    ]


def _read_pair(base: str, file_name: str, captions: list[str]) -> Pair | Rejected:
    path = file_name if "://" in file_name else os.path.join(base, file_name)
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            image = file.read()
        texts = [text.encode("utf-8", "surrogateescape") for text in captions]
        beside = os.path.splitext(path)[0] + ".txt"
        if not texts and tf.io.gfile.exists(beside):
            with tf.io.gfile.GFile(beside, "rb") as file:
                texts = file.read().splitlines()
    except (tf.errors.OpError, OSError, *NO_FILE_NAME) as error:
        return Rejected(file_name, f"cannot be read: {str(error)[:200]}")
    return Pair(file_name, image, texts)


def parquet(
    patterns: Sequence[str], image_column: str | None = None, caption_column: str | None = None
) -> list[Unit]:
    """Parquet as on the hub: an image column of {bytes, path} (or bytes) and a text column.

    One unit per row group. The text may be a string or a list of strings.
    """
    import pyarrow.parquet as pq

    units = []
    for path in expand(patterns):
        try:
            file = pq.ParquetFile(random_access(path))
        except Exception as error:  # pyarrow raises several types for files that are no Parquet
            raise UserError(f"{path} cannot be read as Parquet: {error}") from error
        names = file.schema_arrow.names
        image = image_column or next((n for n in ("image", "jpg", "img") if n in names), None)
        usual = ("text", "caption", "captions", "txt", "title")
        text = caption_column or next((n for n in usual if n in names), None)
        if image not in names or text not in names:
            raise UserError(
                f"{path}: expected an image and a caption column, found {names}. Name them with "
                "--image_column and --caption_column."
            )
        for group in range(file.num_row_groups):
            read = lambda p=path, g=group, i=image, t=text: _read_row_group(p, g, i, t)  # noqa: E731
            units.append(Unit(f"{path}:{group}", read))
    return units


def random_access(path: str) -> str | io.BytesIO:
    """A path that can be opened anywhere in the file, or the content of one that cannot."""
    if "://" not in path:
        return path
    with tf.io.gfile.GFile(path, "rb") as file:
        return io.BytesIO(file.read())


def _read_row_group(path: str, group: int, image: str, text: str) -> Iterator[Pair | Rejected]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(random_access(path)).read_row_group(group, columns=[image, text])
    for number, row in enumerate(table.to_pylist()):
        key = f"{os.path.basename(path)}:{group}:{number}"
        content, captions = row[image], row[text]
        if isinstance(content, dict):
            content = content.get("bytes")
        if not content:
            yield Rejected(key, "no image bytes")
            continue
        captions = captions if isinstance(captions, list) else [captions]
        texts = [c.encode("utf-8", "replace") if isinstance(c, str) else c for c in captions if c]
        yield Pair(key, content, texts)
