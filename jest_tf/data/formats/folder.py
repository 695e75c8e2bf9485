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

from jest_tf.data.formats import files, pairs, table
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
    folder, is_folder = settings.paths[0].rstrip("/") or "/", False
    with contextlib.suppress(*files.READ_ERRORS):
        is_folder = tf.io.gfile.isdir(folder)
    if not is_folder:
        raise UserError(f"{folder} is not a folder")
    if settings.split and not files.ends_as(settings.captions or "", (".json",)):
        raise UserError(
            f"--split={','.join(settings.split)} names splits of Karpathy's JSON: give that file "
            "as --captions=FILE.json, or leave --split out."
        )
    folder = folder if files.is_remote(folder) else os.path.abspath(folder)
    if os.path.realpath(settings.out) == os.path.realpath(folder):
        raise UserError(f"--out={settings.out} is the folder of the pictures. Name another one.")
    tree, per_unit = _Tree(folder, settings), settings.records_per_shard
    tree.list_files()
    tree.add_captions()
    units = [
        pairs.Unit(str(i), functools.partial(tree.read, first, first + per_unit))
        for i, first in enumerate(range(0, tree.find_records(), per_unit))
    ]
    listing, passed_over = tree.listing(), tree.passed_over()
    return pairs.Opened(folder, listing, units, passed_over, tuple(tree.notes))


class _Tree:
    """The files below a folder, in a database.

    named: its caption files; others: some names of tables that are none of these; notes: on how the
    caption files were understood.
    """

    def __init__(self, folder: str, settings: pairs.Settings):
        self.folder, self.settings = folder, settings
        self.place = files.Place(folder, settings.allow_outside)
        self.named: list[str] = []
        self.others: list[str] = []
        self.notes: list[str] = []
        # A temporary file that nobody can find and that ends with it; read from threads.
        self.db = sqlite3.connect("", check_same_thread=False)
        self.db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;" + _SCHEMA)

    def list_files(self) -> None:
        captions, tables = self.settings.captions, {}

        def kind_of(file: files.File) -> int:
            at, name = os.path.split(file.name)
            if file.passed_over:
                return OTHER
            if files.ends_as(name, files.IMAGE_ENDINGS):
                return PICTURE
            if not captions and name in CAPTION_FILES:
                best = min(name, os.path.basename(tables.get(at, name)), key=CAPTION_FILES.index)
                tables[at] = os.path.join(at, best)
                return TABLE
            if files.ends_as(name, TABLES_OF_OTHERS) and len(self.others) < 5:
                self.others.append(file.name)
            return TEXT if files.ends_as(name, BESIDE) else OTHER

        def rows() -> Iterator[tuple]:
            for file in files.walk(self.folder, self.settings.out, self.settings.allow_outside):
                stem = os.path.splitext(file.name)[0]
                reason = file.passed_over or files.ending_of(file.name)
                names = pairs.encoded(file.name), pairs.encoded(stem)
                yield *names, kind_of(file), file.size, file.time, reason

        with self.db:
            self.db.executemany("INSERT INTO file VALUES (?, ?, ?, ?, ?, ?)", rows())
        self.named = [f"{self.folder}/{name}" for name in sorted(tables.values())]
        if captions:
            self.named = [_captions_path(captions, self.folder)]

    def add_captions(self) -> None:
        layout = table.Layout.of(self.settings)
        for path in self.named:
            if files.ends_as(path, table.ANNOTATIONS):
                args = path, self.folder, layout.columns, self.settings.split
                self._add(path, table.annotation_rows(*args))
                continue
            own, begin, note = table.read_layout(path, layout, guess=True)
            self.notes += [f"{path}: {note}"] if note else []
            self._add(path, table.rows(path, own, begin))
        self.db.execute("CREATE INDEX by_name ON caption (name)")
        self._find_other_spellings()

    def _add(self, path: str, rows: Iterator[table.Row]) -> None:
        """Names are relative to the caption file, or, of --captions, to the root."""
        root = self.folder + "/"
        below = os.path.dirname(self.place.key(path)) if path.startswith(root) else ""
        first = list(itertools.islice(rows, 1))
        if self.settings.captions and first:
            with contextlib.suppress(*files.READ_ERRORS):
                below = "" if os.path.exists(self.place.path(first[0].image)) else below

        def contents() -> Iterator[tuple[bytes, str]]:
            for row in itertools.chain(first, rows):
                name, problem = row.image, row.problem
                if problem:  # not under its name: another row may have a sound caption for it
                    name = f"{name} (before byte {row.end} of {os.path.basename(path)})"
                else:
                    try:
                        name = self.place.key(self.place.written(name, below))
                    except files.READ_ERRORS as error:
                        problem = files.why(error)
                yield pairs.encoded(name), json.dumps([row.fields, problem])

        with self.db:
            self.db.executemany("INSERT INTO caption VALUES (?, ?)", contents())

    def _find_other_spellings(self) -> None:
        """Captions whose name is that of no file, but of a file that is written in another way."""
        there = "SELECT 1 FROM file WHERE file.name = "
        lost = f"SELECT DISTINCT name FROM caption WHERE NOT EXISTS ({there} caption.name)"
        found = [
            (other, name)
            for (name,) in self.db.execute(lost)
            for other in map(pairs.encoded, files.other_spellings(_decoded(name)))
            if other != name and self.db.execute(f"{there} ?", (other,)).fetchone()
        ]
        self.db.executemany("UPDATE caption SET name = ? WHERE name = ?", found)

    def find_records(self) -> int:
        """Numbers the records from 1 on; how many there are. UserError: none."""
        by_folder = self.settings.classes_from_folders
        self.db.execute(_RECORDS, (not self.named or by_folder,))
        n_records = self._count("record")
        has_texts = self.named or self._count(f"file WHERE kind = 0 AND {_HAS_TEXT}")
        if not n_records or not (has_texts or by_folder):
            raise UserError(self._nothing_found())
        return n_records

    def _nothing_found(self) -> str:
        looked = f"looked for {', '.join(CAPTION_FILES[:3])} …"
        looked = f"{self.named[0]} names none" if self.named else looked
        text = f"{self.folder}: no image with a caption found ({looked}, and for NAME.txt beside "
        text += "NAME.jpg)."
        if self.others:
            text += f" There is {', '.join(self.others)}: name a caption file with --captions=FILE;"
            text += " for tars, Parquet and tables of whole data sets there are other kinds (see"
            text += " --help)."
        return text

    def _count(self, what: str) -> int:
        return self.db.execute(f"SELECT COUNT(*) FROM {what}").fetchone()[0]

    def passed_over(self) -> Counter:
        passed: Counter = Counter()
        name = os.path.basename(self.named[0]) if self.named else ""
        for kind, reason, beside, n in self.db.execute(_PASSED_OVER):
            text = "text beside a picture" if beside else "text without a picture"
            told = {
                PICTURE: f"picture that {name} does not name",
                TEXT: text,
                TABLE: "caption file",
            }
            passed[told.get(kind, reason)] += n
        return passed

    def listing(self) -> Iterator[tuple[str, int, int]]:
        """What the records depend on: pictures, texts, caption files."""
        if self.settings.captions and not files.is_remote(self.named[0]):
            status = os.stat(self.named[0])
            yield "", status.st_size, int(status.st_mtime)
        for name, size, time in self.db.execute(_LISTING):
            yield _decoded(name), size, time

    def read(self, begin: int, end: int) -> Iterator[pairs.Item]:
        """The records behind number `begin` up to `end`."""
        found = self.db.execute(
            "SELECT record.name, content FROM record LEFT JOIN caption ON caption.name = "
            "record.name WHERE number > ? AND number <= ? ORDER BY number, caption.rowid",
            (begin, end),
        ).fetchall()
        for name, about in itertools.groupby(found, key=lambda row: _decoded(row[0])):
            try:
                yield self._read_picture(name, [parse_json(c) for _, c in about if c])
            except files.READ_ERRORS as error:
                yield pairs.Rejected(name, files.why_rejected(error))

    def _read_picture(self, name: str, rows: list) -> pairs.Item:
        by_folder, columns = self.settings.classes_from_folders, self.settings.columns
        label = os.path.basename(os.path.dirname(name)) or None if by_folder else None
        for _, problem in rows:
            if problem:
                raise pairs.NotText(problem)
        image = self.place.read(name)
        if not rows:
            parts = self._beside(name) | {"jpg": image}
            pair = pair_of(name, parts, bytes, columns, by_line=True)
            is_pair = isinstance(pair, pairs.Pair) and label
            return dataclasses.replace(pair, label=pair.label or label) if is_pair else pair
        captions, known = [], {"label": label, "noise": None}
        for fields, _ in rows:
            caption = fields.get("captions")
            captions += caption if isinstance(caption, list) else [caption]
            known |= {role: fields[role] for role in known if fields.get(role) is not None}
        return pairs.checked(name, image, captions, **known)

    def _beside(self, name: str) -> dict[str, bytes]:
        """Ending -> content of the texts beside a picture."""
        stem, found = os.path.splitext(name)[0], {}
        for ending in BESIDE:
            for spelled in (ending, ending.upper()):
                try:
                    with files.open_binary(self.place.path(stem + spelled)) as file:
                        found[ending[1:]] = file.read(MAX_TEXT_BYTES + 1)
                        break
                except files.READ_ERRORS:
                    continue
        return found


def _captions_path(captions: str, folder: str) -> str:
    """Where the caption file is: as given, or in the folder."""
    beside = f"{folder}/{captions}"
    for path in (captions, beside):
        if files.is_remote(path) or os.path.isfile(path):
            return path if files.is_remote(path) else os.path.abspath(path)
    raise UserError(
        f"--captions={captions}: no such file; looked for {os.path.abspath(captions)} and {beside}."
    )


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
