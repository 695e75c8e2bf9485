"""Rows of CSV, TSV and JSON lines, by column names and with where each begins; caption files of
published sets: COCO's and Karpathy's JSON, Flickr's .token, a list of rows.
"""

import codecs
import csv
import dataclasses
import functools
import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator

from jest_tf.data.formats import files, pairs
from jest_tf.errors import UserError, explaining
from jest_tf.files import parse_json

# Python's own limit, 128 kB, is below what web captions come to.
csv.field_size_limit(1 << 26)
ENDINGS = (".csv", ".tsv", ".jsonl")
ANNOTATIONS = (".json", ".token", ".token.txt")
SEPARATORS = {"\\t": "\t", "tab": "\t", "TAB": "\t"}
# A quoted cell that is longer was never meant to be one.
MAX_QUOTED_LINES = 1000


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a table is to be read."""

    columns: pairs.Columns
    separator: str | None = None  # None: found from the header
    quotes: bool = True  # a cell may be quoted, as CSV has it
    header: tuple[str, ...] | None = None  # None for JSON lines
    image: str = ""  # the column that names the picture
    caption: str = ""  # and the text

    @classmethod
    def of(cls, settings: pairs.Settings) -> "Layout":
        r"""As the flags say; a separator is one character, or `\t` as a shell hands it over."""
        text = SEPARATORS.get(settings.separator, settings.separator) or None
        if text is not None and (len(text) != 1 or text in '"\r\n'):
            raise UserError(
                f"--separator={text!r}: expected one character, e.g. --separator=';', or '\\t' for "
                "TAB."
            )
        return cls(settings.columns, text, settings.quotes)


@dataclasses.dataclass(frozen=True)
class Row:
    """A picture's name and what is said about it, raw."""

    image: str
    fields: dict
    end: int  # byte where the next row begins
    problem: str | None = None  # why it cannot be read
    open_quote: bool = False  # a quotation mark that nothing closes was kept


def open_tables(settings: pairs.Settings) -> pairs.Opened:
    """Tables whose rows name pictures, relative to the table; scanned once and never held."""
    found = files.find(settings.paths, ENDINGS, settings.out)
    place, layout = files.Place(found.root, settings.allow_outside), Layout.of(settings)
    units, notes, unclosed = [], [], 0
    for name, _, _ in found.files:
        path = found.path(name)
        own, begin, _ = read_layout(path, layout)
        notes.append(f"{name}: pictures from {own.image!r}, captions from {own.caption!r}")
        left = rows(path, own, begin)
        for row in left:
            n, end, unclosed = 1, row.end, unclosed + row.open_quote
            for row in itertools.islice(left, settings.records_per_shard - 1):
                n, end, unclosed = n + 1, row.end, unclosed + row.open_quote
            read = functools.partial(read_rows, path, name, own, place, begin, n)
            units.append(pairs.Unit(f"{name}:{begin}", read))
            begin = end
    if unclosed:
        notes.append(f"{unclosed:,} rows have a quotation mark that nothing closes: kept as it is")
    return pairs.Opened(found.root, found.files, units, found.passed_over, tuple(notes))


def read_rows(
    path: str, name: str, layout: Layout, place: files.Place, begin: int, n: int
) -> Iterator[pairs.Item]:
    """The records of `n` rows from byte `begin` on."""
    below = os.path.dirname(name)
    for row in itertools.islice(rows(path, layout, begin), n):
        try:
            if row.problem or not row.image:
                raise pairs.NotText(row.problem or "a row without a picture's name")
            path_of_picture = place.path(row.image, below)
            image = files.read_file(path_of_picture)
        except files.READ_ERRORS as error:
            yield pairs.Rejected(
                row.image or f"{name}: before byte {row.end}", files.why_rejected(error, True)
            )
            continue
        yield pairs.checked(place.key(path_of_picture), image, **row.fields)


def read_layout(path: str, layout: Layout, guess: bool = False) -> tuple[Layout, int, str]:
    """The layout by the table's header, the byte where rows begin, and what was assumed.

    guess: where the first line names no column, the first two are the picture and its caption; a
    line that begins with a picture's name is a row. UserError: no such header, or no text.
    """
    if path.lower().endswith(".jsonl"):
        return dataclasses.replace(layout, image="file_name …", caption="text …"), 0, ""
    line, end = next(_lines(path), ("", 0))
    if not line.strip():
        raise UserError(f"{path} is empty: expected a picture's name and a caption in each row.")
    header, separator = split_header(line, layout, path)
    columns, note = layout.columns, ""
    is_named = all(columns.find(role, header) for role in ("image", "caption"))
    if not (is_named or guess) and any(files.ends_as(c, files.IMAGE_ENDINGS) for c in header):
        raise UserError(
            f"{path}: its first line is a row: {', '.join(header)[:200]}. Write the names of the "
            "columns above it, such as filepath,text."
        )
    if is_named or not guess or columns.image or columns.caption:
        image, caption = (columns.require(role, header, path) for role in ("image", "caption"))
        if columns.label:
            columns.require("label", header, path)
    elif len(header) < 2:
        raise UserError(f"{path}: expected two columns at least, found {header} in the first line.")
    else:
        if files.ends_as(header[0], files.IMAGE_ENDINGS):
            header, end = ("picture", "caption"), 0
        else:
            note = f"its first line was taken for a header: {', '.join(header)[:200]}"
        image, caption = header[:2]
    pairs.require_two(image, caption, header, path)
    found = {"header": header, "separator": separator, "image": image, "caption": caption}
    return dataclasses.replace(layout, **found), end, note


def split_header(line: str, layout: Layout, path: str) -> tuple[tuple[str, ...], str]:
    """The cells of a first line, and the separator under which they name the most columns."""

    def cells(separator: str) -> tuple[str, ...]:
        text = line.rstrip("\r\n")
        read = csv.reader([text], delimiter=separator) if layout.quotes else [text.split(separator)]
        return tuple(cell.strip() for cell in next(iter(read), []))

    def n_known(separator: str) -> tuple[int, int]:
        names = cells(separator)
        roles = ("image", "caption")
        return sum(bool(layout.columns.find(role, names)) for role in roles), len(names)

    with explaining(csv.Error, f"{path}: its first line cannot be read as a table: {{error}}"):
        separator = layout.separator or max("\t,;|", key=n_known)
        return cells(separator), separator


def rows(path: str, layout: Layout, begin: int = 0) -> Iterator[Row]:
    """The rows of a table from byte `begin` on, blank ones left out."""
    lines = _lines(path, begin)
    if layout.header is None:
        for line, end in lines:
            if line.strip():
                yield _json_row(line, end, layout.columns)
        return
    width, image_at = len(layout.header), layout.header.index(layout.image)
    for cells, end, open_quote in _cells(lines, layout, width, image_at):
        if not any(cell.strip() for cell in cells):
            continue
        cells = _fitted(cells, layout, width)
        fields = dict(zip(layout.header, cells, strict=False))
        if layout.image not in fields or layout.caption not in fields or len(cells) > width:
            problem = f"a row of {len(cells)} cells where the header has {width}"
            yield Row(cells[0][:200], {}, end, problem, open_quote)
            continue
        by_role = layout.columns.pair_fields(fields) | {"captions": fields[layout.caption]}
        yield Row(fields[layout.image].strip(), by_role, end, None, open_quote)


def _fitted(cells: list[str], layout: Layout, width: int) -> list[str]:
    """Cells without empty ones at the end; separators in a last, unquoted caption belong to it."""
    while len(cells) > width and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) > width and layout.header[-1] == layout.caption:
        return [*cells[: width - 1], layout.separator.join(cells[width - 1 :])]
    return cells


def _json_row(line: str, end: int, columns: pairs.Columns) -> Row:
    try:
        row = parse_json(line)
        if not isinstance(row, dict):
            raise ValueError("no object")
        image = row.get(columns.find("image", row) or "")
        if not isinstance(image, str):
            raise ValueError(f"no picture's name among {sorted(row)[:8]}")
        return Row(image, columns.pair_fields(row), end)
    except ValueError as error:
        return Row("", {}, end, f"a line that is no record: {str(error)[:100]}")


def _lines(path: str, begin: int = 0) -> Iterator[tuple[str, int]]:
    r"""(line with its end, byte after it); lines end in \n, \r\n or \r and in nothing else."""
    text = f"{path} cannot be read: {{error}}"
    with explaining(files.READ_ERRORS, text), files.open_binary(path) as binary:
        start = binary.read(3)
        if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\0" in start:
            raise UserError(f"{path} is UTF-16 or UTF-32; save it as UTF-8.")
        at = max(begin, 3 if start == codecs.BOM_UTF8 else 0)
        binary.seek(at)
        for line in io.TextIOWrapper(binary, "utf-8", "surrogateescape", newline=""):
            at += len(line.encode("utf-8", "surrogateescape"))
            yield line, at


def _cells(
    lines: Iterator[tuple[str, int]], layout: Layout, width: int, image_at: int
) -> Iterator[tuple[list[str], int, bool]]:
    """(cells, byte after the row, whether a quote was left open) of each row."""
    waiting: list[tuple[str, int]] = []
    lines = iter(lines)
    while True:
        line, end = waiting.pop(0) if waiting else next(lines, (None, 0))
        if line is None:
            return
        plain = line.rstrip("\r\n").split(layout.separator)
        if not layout.quotes or '"' not in line:
            yield plain, end, False
            continue
        taken = [(line, end)]
        cells = _quoted(taken, waiting, lines, layout.separator)
        swallowed = any(_is_row(inner, layout.separator, width, image_at) for inner, _ in taken[1:])
        if cells is None or (swallowed and _is_row(line, layout.separator, width, image_at)):
            waiting[:0] = taken[1:]
            yield plain, end, True
        else:
            yield cells, taken[-1][1], False


def _quoted(taken: list, waiting: list, lines: Iterator, separator: str) -> list[str] | None:
    """The cells of a row with quotes, its lines go to `taken`; None: no table's quotes."""
    while True:
        try:
            return next(csv.reader([line for line, _ in taken], delimiter=separator, strict=True))
        except csv.Error as error:
            if "unexpected end of data" not in str(error) or len(taken) > MAX_QUOTED_LINES:
                return None
        following = waiting.pop(0) if waiting else next(lines, None)
        while following and '"' not in following[0] and len(taken) <= MAX_QUOTED_LINES:
            taken.append(following)
            following = waiting.pop(0) if waiting else next(lines, None)
        if following is None:
            return None
        taken.append(following)


def _is_row(line: str, separator: str, width: int, image_at: int) -> bool:
    """Whether a line, taken for itself, is a row that names a picture."""
    cells = line.rstrip("\r\n").split(separator)
    return len(cells) == width and files.ends_as(cells[image_at].strip(), files.IMAGE_ENDINGS)


def annotation_rows(
    path: str, folder: str, columns: pairs.Columns, split: tuple[str, ...]
) -> Iterator[Row]:
    """A row per caption of a file that one of ANNOTATIONS names. JSON is read whole.

    folder: with the pictures. split: of Karpathy's JSON; empty: all. UserError: another format.
    """
    if not path.lower().endswith(".json"):
        yield from _token_rows(path)
        return
    text = f"{path} cannot be read as JSON: {{error}}"
    with explaining(files.READ_ERRORS, text), files.open_binary(path) as file:
        content = parse_json(file.read())
    images = content.get("images") if isinstance(content, dict) else None
    images = images if isinstance(images, list) else None
    if images and any("sentences" in i for i in images if isinstance(i, dict)):
        yield from _karpathy(path, folder, images, split)
    elif split:
        raise UserError(f"{path}: no splits; only Karpathy's JSON has them. Leave --split out.")
    elif isinstance(content, list):
        yield from _listed(content, columns)
    elif images is not None and isinstance(content.get("annotations"), list):
        yield from _coco(path, images, content["annotations"])
    else:
        found = sorted(content)[:8] if isinstance(content, dict) else type(content).__name__
        raise UserError(
            f"{path}: expected COCO's captions (images, annotations), Karpathy's (images with "
            f"sentences), or a list of {{file_name, text}}; found {found}."
        )


def _token_rows(path: str) -> Iterator[Row]:
    """`0.jpg#2<TAB>a caption`, as Flickr8k and Flickr30k."""
    for line, end in _lines(path):
        if not line.strip():
            continue
        image, tab, text = line.rstrip("\r\n").partition("\t")
        match = re.fullmatch(r"(.+)#\d+", image)
        problem = None if tab and match else f"expected NAME#NUMBER, TAB, caption: {line[:60]!r}"
        yield Row(match[1] if match else image[:200], {"captions": text}, end, problem)


def _listed(content: list, columns: pairs.Columns) -> Iterator[Row]:
    for number, row in enumerate(content, 1):
        name = columns.find("image", row) if isinstance(row, dict) else None
        if name and isinstance(row[name], str):
            yield Row(row[name], columns.pair_fields(row), number)
        else:
            yield Row(f"entry {number}", {}, number, "an entry without a picture's name")


def _coco(path: str, images: list, annotations: list) -> Iterator[Row]:
    """Pictures that no caption names come without one, so that they are rejected by name."""
    names = {i.get("id"): i.get("file_name") for i in images if isinstance(i, dict)}
    if annotations and not any(isinstance(a, dict) and "caption" in a for a in annotations):
        raise UserError(
            f"{path} has annotations without captions (COCO's instances or keypoints?); give the "
            "captions_….json of the set."
        )
    for number, note in enumerate(annotations, 1):
        note = note if isinstance(note, dict) else {}
        name = names.get(note.get("image_id"))
        if isinstance(name, str):
            yield Row(name, {"captions": note.get("caption")}, number)
        else:
            yield Row(f"annotation {number}", {}, number, "a caption of no picture in the file")


def _karpathy(path: str, folder: str, images: list, split: tuple[str, ...]) -> Iterator[Row]:
    images = [image if isinstance(image, dict) else {} for image in images]
    splits = Counter(str(image.get("split")) for image in images)
    if unknown := set(split) - set(splits):
        raise UserError(f"{path}: no split {sorted(unknown)}; it has {dict(splits)}")
    for number, image in enumerate(images, 1):
        if split and image.get("split") not in split:
            continue
        name, below = image.get("filename"), image.get("filepath")
        if not isinstance(name, str):
            yield Row(f"image {number}", {}, number, "an image without a filename")
            continue
        if isinstance(below, str) and below and os.path.isdir(os.path.join(folder, below)):
            name = f"{below}/{name}"
        yield Row(name, {"captions": image.get("sentences")}, number)
