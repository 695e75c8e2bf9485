"""A folder of pictures, with a caption file or with texts beside the pictures.

The files and the captions that name them are joined in a temporary database, not in memory.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator

import tensorflow as tf

from jest_tf.data.formats import annotations, files, pairs, table
from jest_tf.data.formats.tar import MAX_TEXT_BYTES, pair_of
from jest_tf.errors import UserError
from jest_tf.files import parse_json

# Looked for in every folder of the tree; in each, the first one that is there counts.
CAPTION_FILES = (
    "metadata.jsonl", "metadata.csv", "metadata.tsv", "captions.jsonl", "captions.tsv",
    "captions.csv", "captions.txt",
)  # fmt: skip
BESIDE = (".txt", ".json", ".cls")
PICTURE, TEXT, TABLE, OTHER = range(4)
TABLES_OF_OTHERS = (".csv", ".tsv", ".jsonl", ".json", ".token", ".parquet", ".tar")
_SCHEMA = """
CREATE TABLE file (
  name BLOB PRIMARY KEY, stem BLOB, kind INT, size INT, time INT, reason TEXT) WITHOUT ROWID;
CREATE INDEX by_stem ON file (stem);
CREATE TABLE caption (name BLOB, content TEXT);
CREATE TABLE record (number INTEGER PRIMARY KEY, name BLOB UNIQUE);
"""
_HAS_TEXT = "EXISTS (SELECT 1 FROM file AS t WHERE t.stem = file.stem AND t.kind = 1)"
# Pictures that a caption file names, or with a text beside them; all, where there is neither.
_RECORDS = f"""
INSERT INTO record (name) SELECT name FROM (
  SELECT name FROM caption UNION SELECT name FROM file WHERE kind = 0 AND (? OR {_HAS_TEXT})
) ORDER BY name
"""
# Files that are no record of their own.
_PASSED_OVER = """
SELECT kind, reason, stem IN (SELECT stem FROM file WHERE kind = 0) AS beside, COUNT(*) FROM file
WHERE name NOT IN (SELECT name FROM record) GROUP BY kind, reason, beside
"""
_LISTING = """
SELECT name, size, time FROM file WHERE kind < 3 OR name IN (SELECT name FROM record) ORDER BY name
"""


def open_folder(settings: pairs.Settings) -> pairs.Opened:
    """Units of `records_per_shard` pictures each, in the order of their names.

    Captions are of --captions alone, or of every one of CAPTION_FILES, relative to its folder.
    """
    if len(settings.paths) != 1:
        raise UserError(f"expected one folder, got {list(settings.paths)}")
    folder = settings.paths[0].rstrip("/") or "/"
    try:
        is_folder = tf.io.gfile.isdir(folder)
    except files.READ_ERRORS:
        is_folder = False
    if not is_folder:
        raise UserError(f"{folder} is not a folder")
    folder = folder if files.is_remote(folder) else os.path.abspath(folder)
    if os.path.realpath(settings.out) == os.path.realpath(folder):
        raise UserError(f"--out={settings.out} is the folder of the pictures. Name another one.")
    place, captions = files.Place(folder, settings.allow_outside), settings.captions
    # A temporary file that nobody can find and that ends with it; read from threads.
    db = sqlite3.connect("", check_same_thread=False)
    db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;" + _SCHEMA)
    tree = files.walk(folder, settings.out, settings.allow_outside)
    tables, others = _list_files(db, tree, not captions)
    notes: list[str] = []
    named = [_captions_path(captions, folder)] if captions else [f"{folder}/{t}" for t in tables]
    layout = table.Layout.of(settings)
    for path in named:
        rows = _caption_rows(path, folder, layout, settings.split, notes)
        _add_captions(db, path, rows, place, look_in_root=bool(captions))
    db.execute("CREATE INDEX by_name ON caption (name)")
    _find_other_spellings(db)
    by_folder = settings.classes_from_folders
    db.execute(_RECORDS, (not named or by_folder,))
    n_records = _count(db, "record")
    has_texts = named or _count(db, f"file WHERE kind = 0 AND {_HAS_TEXT}")
    if not n_records or not (has_texts or by_folder):
        raise UserError(_nothing_found(folder, named, others))
    per_unit = settings.records_per_shard
    how = place, settings.columns, by_folder
    units = [
        pairs.Unit(str(i), functools.partial(_read_unit, db, first, first + per_unit, *how))
        for i, first in enumerate(range(0, n_records, per_unit))
    ]
    return pairs.Opened(
        root=folder,
        listing=_listing(db, captions and named[0]),
        units=units,
        passed_over=_passed_over(db, named),
        notes=tuple(notes),
    )


def _count(db: sqlite3.Connection, what: str) -> int:
    return db.execute(f"SELECT COUNT(*) FROM {what}").fetchone()[0]


def _list_files(
    db: sqlite3.Connection, found: Iterator[files.File], look_for_tables: bool
) -> tuple[list[str], list[str]]:
    """Notes all files; (caption files, some names of tables that are none of these)."""
    tables: dict[str, str] = {}
    others: list[str] = []

    def kind_of(file: files.File) -> int:
        at, name = os.path.split(file.name)
        if file.passed_over:
            return OTHER
        if files.ends_as(name, files.IMAGE_ENDINGS):
            return PICTURE
        if look_for_tables and name in CAPTION_FILES:
            best = min(name, os.path.basename(tables.get(at, name)), key=CAPTION_FILES.index)
            tables[at] = os.path.join(at, best)
            return TABLE
        if files.ends_as(name, TABLES_OF_OTHERS) and len(others) < 5:
            others.append(file.name)
        return TEXT if files.ends_as(name, BESIDE) else OTHER

    def rows() -> Iterator[tuple]:
        for file in found:
            stem = os.path.splitext(file.name)[0]
            reason = file.passed_over or files.ending_of(file.name)
            names = pairs.encoded(file.name), pairs.encoded(stem)
            yield *names, kind_of(file), file.size, file.time, reason

    with db:
        db.executemany("INSERT INTO file VALUES (?, ?, ?, ?, ?, ?)", rows())
    return sorted(tables.values()), others


def _captions_path(captions: str, folder: str) -> str:
    """Where the caption file is: as given, or in the folder."""
    beside = f"{folder}/{captions}"
    for path in (captions, beside):
        if files.is_remote(path) or os.path.isfile(path):
            return path if files.is_remote(path) else os.path.abspath(path)
    raise UserError(
        f"--captions={captions}: no such file; looked for {os.path.abspath(captions)} and {beside}."
    )


def _caption_rows(
    path: str, folder: str, layout: table.Layout, split: tuple[str, ...], notes: list[str]
) -> Iterator[table.Row]:
    if files.ends_as(path, annotations.ENDINGS):
        return annotations.annotation_rows(path, folder, layout.columns, split)
    own, begin, note = table.read_layout(path, layout, guess=True)
    notes.extend([f"{path}: {note}"] if note else [])
    return table.rows(path, own, begin)


def _add_captions(
    db: sqlite3.Connection,
    path: str,
    rows: Iterator[table.Row],
    place: files.Place,
    look_in_root: bool,
) -> None:
    """Notes a caption file's rows; names are relative to it, or to the root (`look_in_root`)."""
    below = os.path.dirname(place.key(path)) if path.startswith(place.root + "/") else ""
    first = list(itertools.islice(rows, 1))
    if look_in_root and first and _exists(place, first[0].image):
        below = ""

    def contents() -> Iterator[tuple[bytes, str]]:
        for row in itertools.chain(first, rows):
            name, problem = row.image, row.problem
            if problem:  # not under its name: another row may have a sound caption for it
                name = f"{name} (before byte {row.end} of {os.path.basename(path)})"
            else:
                try:
                    name = place.key(place.written(name, below))
                except files.READ_ERRORS as error:
                    problem = files.why(error)
            yield pairs.encoded(name), json.dumps([row.fields, problem])

    with db:
        db.executemany("INSERT INTO caption VALUES (?, ?)", contents())


def _find_other_spellings(db: sqlite3.Connection) -> None:
    """Captions whose name is that of no file, but of a file that is written in another way."""
    there = "SELECT 1 FROM file WHERE file.name = "
    lost = f"SELECT DISTINCT name FROM caption WHERE NOT EXISTS ({there} caption.name)"
    found = [
        (other, name)
        for (name,) in db.execute(lost)
        for other in map(pairs.encoded, files.other_spellings(_decoded(name)))
        if other != name and db.execute(f"{there} ?", (other,)).fetchone()
    ]
    db.executemany("UPDATE caption SET name = ? WHERE name = ?", found)


def _exists(place: files.Place, name: str) -> bool:
    with contextlib.suppress(*files.READ_ERRORS):
        return os.path.exists(place.path(name))
    return False


def _passed_over(db: sqlite3.Connection, named: list[str]) -> Counter:
    passed: Counter = Counter()
    unnamed = f"picture that {os.path.basename(named[0]) if named else ''} does not name"
    for kind, reason, beside, n in db.execute(_PASSED_OVER):
        text = "text beside a picture" if beside else "text without a picture"
        passed[{PICTURE: unnamed, TEXT: text, TABLE: "caption file"}.get(kind, reason)] += n
    return passed


def _nothing_found(folder: str, named: list[str], others: list[str]) -> str:
    looked = f"{named[0]} names none" if named else f"looked for {', '.join(CAPTION_FILES[:3])} …"
    text = f"{folder}: no image with a caption found ({looked}, and for NAME.txt beside NAME.jpg)."
    if others:
        text += f" There is {', '.join(others)}: name a caption file with --captions=FILE; for"
        text += " tars, Parquet and tables of whole data sets there are other kinds (see --help)."
    return text


def _listing(db: sqlite3.Connection, captions: str | None) -> Iterator[tuple[str, int, int]]:
    """What the records depend on: pictures, texts, caption files."""
    if captions and not files.is_remote(captions):
        status = os.stat(captions)
        yield "", status.st_size, int(status.st_mtime)
    for name, size, time in db.execute(_LISTING):
        yield _decoded(name), size, time


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _read_unit(
    db: sqlite3.Connection,
    begin: int,
    end: int,
    place: files.Place,
    columns: pairs.Columns,
    by_folder: bool,
) -> Iterator[pairs.Item]:
    """The records behind number `begin` up to `end`."""
    found = db.execute(
        "SELECT record.name, content FROM record LEFT JOIN caption ON caption.name = record.name "
        "WHERE number > ? AND number <= ? ORDER BY number, caption.rowid",
        (begin, end),
    ).fetchall()
    for name, about in itertools.groupby(found, key=lambda row: _decoded(row[0])):
        label = os.path.basename(os.path.dirname(name)) or None if by_folder else None
        try:
            rows = [parse_json(content) for _, content in about if content]
            yield _read_picture(place, name, rows, columns, label)
        except files.READ_ERRORS as error:
            yield pairs.Rejected(name, files.why_rejected(error))


def _read_picture(
    place: files.Place, name: str, rows: list, columns: pairs.Columns, label: str | None
) -> pairs.Item:
    for _, problem in rows:
        if problem:
            raise pairs.NotText(problem)
    image = place.read(name)
    if not rows:
        pair = pair_of(name, _beside(place, name) | {"jpg": image}, bytes, columns, by_line=True)
        is_pair = isinstance(pair, pairs.Pair) and label
        return dataclasses.replace(pair, label=pair.label or label) if is_pair else pair
    captions, known = [], {"label": label, "noise": None}
    for fields, _ in rows:
        caption = fields.get("captions")
        captions += caption if isinstance(caption, list) else [caption]
        known |= {role: fields[role] for role in known if fields.get(role) is not None}
    return pairs.checked(name, image, captions, **known)


def _beside(place: files.Place, name: str) -> dict[str, bytes]:
    """Ending -> content of the texts beside a picture."""
    stem, found = os.path.splitext(name)[0], {}
    for ending in BESIDE:
        for spelled in (ending, ending.upper()):
            try:
                with files.open_binary(place.path(stem + spelled)) as file:
                    found[ending[1:]] = file.read(MAX_TEXT_BYTES + 1)
                break
            except files.READ_ERRORS:
                continue
    return found
