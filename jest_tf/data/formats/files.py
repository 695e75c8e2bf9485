"""Finding and opening files, local or gs://, and staying inside of a folder while doing it."""

import contextlib
import dataclasses
import functools
import glob
import io
import itertools
import os
import posixpath
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

import tensorflow as tf
from tensorflow.python.lib.io import _pywrap_file_io

from jest_tf.data.cleaning import IMAGE_ENDINGS as IMAGE_ENDINGS
from jest_tf.data.formats.pairs import encoded
from jest_tf.errors import UserError, explaining, why

# No picture that training accepts has a larger file.
MAX_FILE_BYTES = 1 << 28
# What opening and reading a file may raise; ValueError and TypeError are about the name itself.
READ_ERRORS = (OSError, tf.errors.OpError, ValueError, TypeError)
# From a drive or a server on; a folder of the table may stand before it.
WINDOWS_PATH = re.compile(r"(?:^|/)(?:[A-Za-z]:[\\/]|\\\\)")


class _RemoteFile(io.RawIOBase):
    """A gs:// file that can be read anywhere in it."""

    def __init__(self, path: str):
        self._file = tf.io.gfile.GFile(path, "rb")
        self._file.size()  # raises where there is none

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._file.seek(offset, whence)
        return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()


def is_remote(path: str) -> bool:
    return "://" in path


def open_binary(path: str) -> io.BufferedIOBase:
    """A file that can be read from any place on."""
    if is_remote(path):
        return io.BufferedReader(_RemoteFile(path), 1 << 20)
    return open(path, "rb")


def read_part(path: str, offset: int, length: int) -> bytes:
    """Bytes of a file, fewer at its end; nothing else of it is read."""
    if is_remote(path):
        # What GFile reads by, which asks for half a megabyte each time.
        stream = _pywrap_file_io.BufferedInputStream(path, length)
        stream.seek(offset)
        return stream.read(length)
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        return file.read(length)


def open_parquet(path: str):
    """The pyarrow.parquet.ParquetFile; UserError: it is none."""
    import pyarrow.parquet as pq

    # pyarrow raises several types for files that are no Parquet.
    with explaining(Exception, f"{path} cannot be read as Parquet: {{error}}"):
        return pq.ParquetFile(open_binary(path))


def ends_as(name: str, endings: Sequence[str]) -> bool:
    return name.lower().endswith(tuple(endings))


def why_rejected(error: Exception, is_relative: bool = False) -> str:
    """The reason to list a record with whose file could not be read.

    is_relative: the record names the file as seen from a table; the reason says where that is.
    """
    if not isinstance(error, OSError | tf.errors.OpError):
        return why(error)
    path = getattr(error, "filename", None) if is_relative else None
    return f"cannot be read: {why(error)}" + (f", looked for {path}" if path else "")


@dataclasses.dataclass(frozen=True)
class File:
    """A file below a folder; `passed_over` says why it is not looked at, if it is not."""

    name: str
    size: int = -1
    time: int = 0
    passed_over: str | None = None


def walk(folder: str, skip: str = "", allow_outside: bool = False) -> Iterator[File]:
    """Every file below a folder, but for those in the folder `skip` (an --out that lies inside).

    Passes over hidden files, no plain files, and links to folders unless `allow_outside`.
    """
    if is_remote(folder):
        for at, _, names in tf.io.gfile.walk(folder):
            for name in names:
                relative = f"{at}/{name}"[len(folder.rstrip("/")) + 1 :]
                hidden = any(part.startswith(".") for part in relative.split("/"))
                yield File(relative, passed_over="hidden" if hidden else None)
        return
    root, skip = os.path.realpath(folder), os.path.realpath(skip) if skip else None
    waiting, seen = [("", False)], {root}
    while waiting:
        below, hidden = waiting.pop()
        try:
            with os.scandir(os.path.join(folder, below)) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield File(below, passed_over=f"folder that cannot be listed: {why(error)}")
            continue
        for entry in entries:
            name = os.path.join(below, entry.name)
            is_hidden = hidden or entry.name.startswith(".") or entry.name == "__MACOSX"
            if not entry.is_dir():
                yield _file(entry, name, is_hidden)
                continue
            real = os.path.realpath(entry.path)
            if real == skip:
                continue
            if entry.is_symlink() and (not allow_outside or _is_below(real, root) or real in seen):
                yield File(name, passed_over="link to a folder")
                continue
            seen.add(real)
            waiting.append((name, is_hidden))


def _file(entry: os.DirEntry, name: str, hidden: bool) -> File:
    reason = "hidden" if hidden else None
    try:
        status = entry.stat()
    except OSError:  # a link that leads nowhere: reading it will say so
        return File(name, passed_over=reason)
    reason = reason if stat.S_ISREG(status.st_mode) else "not a plain file"
    return File(name, status.st_size, int(status.st_mtime), reason)


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


_real = functools.lru_cache(os.path.realpath)


def _real_file(path: str) -> str:
    """`os.path.realpath`, whose look at each folder of the path is remembered."""
    if os.path.islink(path):
        return os.path.realpath(path)
    folder, name = os.path.split(path)
    return os.path.join(_real(folder), name)


def other_spellings(name: str) -> list[str]:
    """A name that Windows (`\\`) or macOS (é of two signs) wrote, as it may be here."""
    slashed = posixpath.normpath(name.replace("\\", "/"))
    both = (unicodedata.normalize(f, n) for n in (name, slashed) for f in ("NFC", "NFD"))
    return [slashed, *both]


@dataclasses.dataclass(frozen=True)
class Place:
    """The folder that file names of a table or a list are relative to, and must stay in."""

    root: str
    allow_outside: bool = False

    def path(self, name: str, below: str = "") -> str:
        """Where `name`, relative to the folder `below`, is; ValueError: outside of the root."""
        if is_remote(name) or is_remote(self.root):
            path = name if is_remote(name) else f"{self.root}/{below}/{name}"
            scheme, _, rest = path.partition("://")
            path = f"{scheme}://{posixpath.normpath(rest)}"
            inside = _is_below(path, self.root.rstrip("/"))
        else:
            found = (self._joined(below, other) for other in (name, *other_spellings(name)))
            path = next(filter(os.path.lexists, found), self._joined(below, name))
            if WINDOWS_PATH.search(name) and not os.path.lexists(path):
                raise ValueError(f"a path of Windows: write it relative to {self.root}")
            inside = _is_below(_real_file(path), _real(self.root))
        return self._allowed(path, inside)

    def written(self, name: str, below: str = "") -> str:
        """As `path`, without a look at the disk: links are followed only when a file is read."""
        if is_remote(name) or is_remote(self.root):
            return self.path(name, below)
        path = self._joined(below, name)
        return self._allowed(path, _is_below(path, self.root))

    def _joined(self, below: str, name: str) -> str:
        return os.path.normpath(os.path.join(self.root, below, name))

    def _allowed(self, path: str, inside: bool) -> str:
        if not inside and not self.allow_outside:
            raise ValueError("outside of the source's folder; --allow_outside reads it")
        return path

    def key(self, path: str) -> str:
        """A path as seen from the root, or itself where it lies elsewhere."""
        prefix = self.root.rstrip("/") + "/"
        return path.removeprefix(prefix)

    def read(self, name: str, below: str = "") -> bytes:
        """`read_file` of `path`."""
        return read_file(self.path(name, below))


def read_file(path: str) -> bytes:
    """Content of a picture's file, or one of READ_ERRORS, whose message holds nothing of it."""
    if not is_remote(path):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a plain file")
        if status.st_size > MAX_FILE_BYTES:
            raise ValueError(f"{status.st_size:,} bytes; at most {MAX_FILE_BYTES:,}")
    with open_binary(path) as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"more than {MAX_FILE_BYTES:,} bytes")
    return content


@dataclasses.dataclass(frozen=True)
class Found:
    """Files that patterns name: (name below the root, bytes, time), sorted by name."""

    root: str
    files: list[tuple[str, int, int]]
    passed_over: Counter

    def path(self, name: str) -> str:
        return name if is_remote(name) else f"{self.root}/{name}"


def find(patterns: Sequence[str], endings: Sequence[str] = (), skip: str = "") -> Found:
    """What paths, globs, {00000..00099} and folders name; UserError: one that names nothing."""
    paths: dict[str, None] = {}
    passed: Counter = Counter()
    patterns = [p if is_remote(p) else os.path.abspath(p) for p in patterns]
    for pattern in itertools.chain.from_iterable(map(_matches, patterns)):
        if not tf.io.gfile.isdir(pattern):
            paths[pattern] = None
            continue
        for file in walk(pattern, skip):
            if file.passed_over or not ends_as(file.name, endings):
                passed[file.passed_over or ending_of(file.name)] += 1
            else:
                paths[f"{pattern.rstrip('/')}/{file.name}"] = None
    if not paths:
        raise UserError(
            f"{', '.join(patterns)}: no file that ends in {', '.join(endings)} is there"
        )
    root = _common([_fixed_part(pattern) for pattern in patterns])
    key = Place(root).key
    return Found(root, [(key(path), *_status(path)) for path in sorted(paths, key=encoded)], passed)


def ending_of(name: str) -> str:
    """`.md` of README.md, for counting what is passed over."""
    ending = os.path.splitext(name)[1].lower()
    return ending if re.fullmatch(r"\.[a-z0-9]{1,8}", ending) else "no usual ending"


def _matches(pattern: str) -> list[str]:
    """The paths that a pattern names, which may have braces of a shell and stars."""
    if _exists(pattern):
        return [pattern]
    braced = _expand_braces(pattern)
    if len(braced) > 1:
        return [path for one in braced for path in _matches(one)]
    found = tf.io.gfile.glob(pattern) if is_remote(pattern) else glob.glob(pattern, recursive=True)
    if not found:
        raise UserError(f"no file matches {pattern!r}")
    return found


def _exists(path: str) -> bool:
    with contextlib.suppress(*READ_ERRORS):
        return tf.io.gfile.exists(path) if is_remote(path) else os.path.exists(path)
    return False


def _expand_braces(pattern: str) -> list[str]:
    """x{a,b} -> xa, xb; x{08..10} -> x08, x09, x10; as WebDataset and shells do."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if not match:
        return [pattern]
    first, last, words = match.groups()
    if words is None:
        if int(last) - int(first) > 1_000_000:
            raise UserError(f"{pattern!r} names more than a million files")
        options = [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    else:
        options = words.split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [one for option in options for one in _expand_braces(before + option + after)]


def _fixed_part(pattern: str) -> str:
    """The folder that a pattern searches: adding files to it leaves the names as they are."""
    if tf.io.gfile.isdir(pattern):
        return pattern.rstrip("/")
    parts = os.path.dirname(pattern).split("/")
    wild = [i for i, part in enumerate(parts) if re.search(r"[*?\[{]", part)]
    literal = _exists(pattern) or not wild
    return "/".join(parts if literal else parts[: wild[0]])


def _common(folders: Sequence[str]) -> str:
    parts = zip(*(folder.split("/") for folder in folders), strict=False)
    levels = itertools.takewhile(lambda level: len(set(level)) == 1, parts)
    return "/".join(level[0] for level in levels)


def _status(path: str) -> tuple[int, int]:
    if not is_remote(path) and os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path} is not a plain file")
    with explaining(READ_ERRORS, f"{path} cannot be read: {{error}}"):
        status = tf.io.gfile.stat(path)
        return status.length, status.mtime_nsec // 10**9
