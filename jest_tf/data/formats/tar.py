"""Tars of img2dataset or WebDataset: members KEY.jpg|png|…, KEY.txt or KEY.json, KEY.cls."""

import codecs
import dataclasses
import functools
import io
import tarfile
from collections.abc import Callable, Iterator

from jest_tf.data.formats import files, pairs
from jest_tf.errors import UserError, explaining
from jest_tf.files import parse_json

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# Captions, classes and metadata of one record; web pages as captions are cut later.
MAX_TEXT_BYTES = 1 << 24
TEXTS = ("txt", "json", "cls")
IMAGES = tuple(ending[1:] for ending in files.IMAGE_ENDINGS)

# As `tar` unpacks them, which a tar that was appended to relies on.
REPEATED = pairs.PassedOver("member of a tar that a later one of its name replaces")

Parts = dict[str, object]  # ending -> what `load` turns into bytes


def open_tars(settings: pairs.Settings) -> pairs.Opened:
    """A unit per tar."""
    found = files.find(settings.paths, ENDINGS, settings.out)

    def unit(name: str) -> pairs.Unit:
        path = found.path(name)
        read = functools.partial(read_tar, path, name, settings.columns, settings.in_place)
        return pairs.Unit(name, read, path if settings.in_place else "")

    units = [unit(name) for name, _, _ in found.files]
    return pairs.Opened(found.root, found.files, units, found.passed_over)


def read_tar(
    path: str, name: str, columns: pairs.Columns, in_place: bool = False
) -> Iterator[pairs.Item]:
    """The records of a tar; `name` begins their keys. UserError: the file cannot be read at all.

    In a compressed or remote one, read once, members of a key must follow one another.
    """
    with explaining(files.READ_ERRORS, f"{path} cannot be read: {{error}}"):
        file = files.open_binary(path)
    with file:
        is_plain = (in_place or not files.is_remote(path)) and _is_plain(file)
        if in_place and not is_plain:
            raise UserError(
                f"{path} is compressed, or no tar: nothing in it can be read in place. Unpack it, "
                "or leave --in_place out."
            )
        groups = _indexed(file) if is_plain else _streamed(file)
        for key, parts, load in groups:
            if isinstance(parts, pairs.Rejected | pairs.PassedOver):
                yield parts
                continue
            for inner, record in _split_at_dots(key, parts):
                pair = pair_of(f"{name}:{inner}", record, load, columns)
                if in_place and isinstance(pair, pairs.Pair):
                    pair = dataclasses.replace(pair, offset=record[_image_of(record)][0])
                yield pair


def _is_plain(file: io.BufferedIOBase) -> bool:
    """Whether the file begins as an uncompressed tar does."""
    header = file.read(512)
    file.seek(0)
    try:
        tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _indexed(file: io.BufferedIOBase) -> Iterator[tuple]:
    """(key, {ending: (offset, size)}, load): the members are listed first and read by place."""
    groups: dict[str, Parts] = {}
    last, lost = "", None
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for key, ending, member in members(tar):
                last = key or last
                if key is None:
                    yield "", pairs.PassedOver(ending), None
                    continue
                if ending in groups.setdefault(key, {}):
                    yield "", REPEATED, None
                groups[key][ending] = (member.offset_data, member.size)
    except Exception as error:  # tarfile raises many types for damaged archives
        lost = pairs.Rejected(last or "its first member", _ends_early(error))

    def load(part: tuple[int, int]) -> bytes:
        file.seek(part[0])
        return file.read(part[1])

    for key, parts in groups.items():
        yield key, parts, load
    if lost:
        yield "", lost, None


def _streamed(file: io.BufferedIOBase) -> Iterator[tuple]:
    """(key, {ending: bytes or size}, load): what of a key is adjacent, from begin to end."""
    key, parts, held, finished = None, {}, 0, set()
    try:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            for member_key, ending, member in members(tar):
                if member_key is None:
                    yield "", pairs.PassedOver(ending), None
                    continue
                if member_key != key:
                    if parts:
                        yield key, parts, bytes
                    finished.add(hash(key))
                    key, parts, held = member_key, {}, 0
                    if hash(key) in finished:
                        reason = "its members are not adjacent: pack them with tar --sort=name"
                        yield "", pairs.Rejected(key, reason), None
                if ending in parts:
                    yield "", REPEATED, None
                parts[ending] = member.size
                if ending.rpartition(".")[2] not in (*IMAGES, *TEXTS):
                    continue
                held += member.size
                if held <= files.MAX_FILE_BYTES:
                    content = tar.extractfile(member).read()
                    if len(content) < member.size:
                        raise tarfile.ReadError(f"unexpected end of data in {member.name}")
                    parts[ending] = content
    except Exception as error:  # tarfile, zlib and lzma raise many types for damaged archives
        yield "", pairs.Rejected(key or "its first member", _ends_early(error)), None
        return
    if parts:
        yield key, parts, bytes


def _ends_early(error: Exception) -> str:
    return f"the tar ends early (or is no tar), its rest is lost: {str(error)[:200]}"


def members(tar: tarfile.TarFile) -> Iterator[tuple[str | None, str, tarfile.TarInfo]]:
    """(key, ending, member) of each file; (None, reason, member) of what is no part of a record."""
    while (member := tar.next()) is not None:
        tar.members = []  # tarfile remembers every member; nobody asks for them
        folder, slash, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        if not member.isreg() or member.issparse():
            yield None, "folder or link in a tar", member
        elif not stem:
            yield None, "hidden", member
        else:
            yield f"{folder}{slash}{stem}".removeprefix("./"), ending.lower(), member


def _split_at_dots(key: str, parts: Parts) -> Iterator[tuple[str, Parts]]:
    """The records of what shares a key up to its first dot, where WebDataset ends a key.

    Where no member is KEY.jpg, names such as v1.0.jpg and v1.0.txt are cut at their last dot.
    """
    has_inner = any("." in e and e.rpartition(".")[2] in IMAGES for e in parts)
    if not has_inner or any(ending in parts for ending in IMAGES):
        yield key, parts
        return
    inner: dict[str, Parts] = {}
    for ending, part in parts.items():
        before, dot, last = ending.rpartition(".")
        inner.setdefault(key + dot + before, {})[last] = part
    yield from inner.items()


def pair_of(
    key: str,
    parts: Parts,
    load: Callable[[object], bytes],
    columns: pairs.Columns,
    by_line: bool = False,
) -> pairs.Item:
    """The record of files that share a key: a picture, .txt (by_line: captions) or .json, .cls.

    parts: by ending, as `load` takes them; a size, or (…, size), stands for what is too large.
    """
    ending = _image_of(parts)
    if ending is None:
        dots = " (a key ends at the first dot of a name)" if any("." in e for e in parts) else ""
        return pairs.Rejected(key, f"no image among {sorted(parts)[:8]}{dots}")
    for name, limit in ((ending, files.MAX_FILE_BYTES), *((t, MAX_TEXT_BYTES) for t in TEXTS)):
        part = parts.get(name, b"")
        size = len(part) if isinstance(part, bytes) else part if isinstance(part, int) else part[1]
        if size > limit or isinstance(part, int):
            return pairs.Rejected(key, f".{name} has {size:,} bytes; more than fit into a record")
    image = load(parts[ending])
    fields: dict[str, object] = {"captions": None, "label": None, "noise": None}
    if "json" in parts:
        try:
            fields = columns.pair_fields(_fields(load(parts["json"])))
        except pairs.NotText as error:
            if "txt" not in parts or columns.caption:
                return pairs.Rejected(key, str(error))
    if "txt" in parts and not columns.caption:  # a field that the user names is not replaced
        text = load(parts["txt"]).removeprefix(codecs.BOM_UTF8)
        if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # of Windows' Notepad
            text = text.decode("utf-16", "ignore").encode()
        lines = [line for line in text.split(b"\n") if line.strip()]
        if lines or not fields["captions"]:
            fields["captions"] = lines if by_line else text
    if "cls" in parts:
        fields["label"] = load(parts["cls"])
    return pairs.checked(key, image, **fields)


def _image_of(parts: Parts) -> str | None:
    """The ending of the picture among files that share a key."""
    return next((ending for ending in IMAGES if ending in parts), None)


def _fields(content: bytes) -> dict:
    try:
        fields = parse_json(content)
    except ValueError:
        raise pairs.NotText("its .json cannot be read") from None
    if not isinstance(fields, dict):
        raise pairs.NotText("its .json is no object")
    return fields
