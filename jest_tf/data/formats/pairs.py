"""What every format yields, and the one way in which captions, classes and columns are read."""

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from jest_tf.data.fields import is_text
from jest_tf.errors import UserError

# Column or field names in use, the likeliest first. Case and blanks around them do not matter.
USUAL = {
    "image": (
        "filepath", "file_name", "filename", "image", "image_path", "image_name", "path", "file",
        "jpg", "img",
    ),
    "caption": ("text", "caption", "captions", "txt", "title", "sentences", "comment"),
    "label": ("cls", "label"),
    "noise": ("noise",),
}  # fmt: skip
# Fields of a caption that is an object, as COCO has them on the hub.
TEXT_FIELDS = ("raw", "caption", "text")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to prepare, and how; the flags of `jest_tf.prepare` say what each field means."""

    kind: str
    paths: tuple[str, ...]
    out: str
    name: str | None = None
    max_side: int | None = None
    in_place: bool = False
    records_per_shard: int = 1000
    workers: int = 8
    captions: str | None = None
    split: tuple[str, ...] = ()
    image_column: str | None = None
    caption_column: str | None = None
    label_column: str | None = None
    separator: str | None = None
    quotes: bool = True
    classes_from_folders: bool = False
    allow_outside: bool = False
    max_rejected: float = 0.5
    overwrite: bool = False

    @property
    def columns(self) -> "Columns":
        return Columns(self.image_column, self.caption_column, self.label_column)

    def decisive(self, name: str) -> dict:
        """What the output depends on, besides the files of the source."""
        other = ("paths", "out", "workers", "max_rejected", "overwrite", "in_place")
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k not in other}
        captions = os.path.basename(self.captions) if self.captions else None
        kind = self.kind + " in place" * self.in_place
        own = {"kind": kind, "name": name, "split": list(self.split), "captions": captions}
        return fields | own


@dataclasses.dataclass(frozen=True)
class Pair:
    """One record before it is checked."""

    key: str  # where it comes from, below the source; the id is its hash
    image: bytes
    captions: list[bytes]  # of any encoding
    label: str | None = None
    noise: str | None = None  # what is known to be wrong with the pair, for measuring only
    offset: int | None = None  # of the picture in its tar, if it is to stay there


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A record that cannot be used, with the reason; it is listed."""

    key: str
    reason: str


@dataclasses.dataclass(frozen=True)
class PassedOver:
    """Something that is no record and not meant to be one; it is counted by its reason."""

    reason: str


Item = Pair | Rejected | PassedOver


@dataclasses.dataclass(frozen=True)
class Unit:
    """A part of a source that can be read alone and in any process."""

    name: str
    read: Callable[[], Iterator[Item]]
    tar: str = ""  # where its pictures stay; "": they are copied


@dataclasses.dataclass(frozen=True)
class Opened:
    """A source, before its records are read."""

    root: str  # folder that all names are relative to
    listing: Iterable[tuple[str, int, int]]  # (name, bytes, seconds) of its files, by name
    units: Sequence[Unit]
    passed_over: Counter  # counts of files of no unit, by reason
    notes: tuple[str, ...] = ()  # sentences about how the source was understood


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names that the user gave for columns, fields or members; None: the usual ones."""

    image: str | None = None
    caption: str | None = None
    label: str | None = None

    def find(self, role: str, names: Iterable[str]) -> str | None:
        """Which of `names` plays a role of USUAL; None if none does."""
        given = getattr(self, role, None)
        return _first_of((given,) if given else USUAL[role], tuple(names))

    def require(self, role: str, names: Iterable[str], where: str) -> str:
        """As `find`; raises UserError where there is none."""
        names = list(names)
        found = self.find(role, names)
        if found is None:
            wanted = getattr(self, role) or f"{', '.join(USUAL[role][:5])} …"
            hint = f"Name it with --{role}_column."
            if role == "image" and "url" in _folded(tuple(names)):
                hint = "Addresses are not fetched: download the pictures first (img2dataset)."
            raise UserError(
                f"{where}: no {role} column (looked for {wanted}); found {names[:20]}. {hint}"
            )
        return found

    def own_label(self, value: object) -> object:
        """A class; None where a column that the user did not name holds something else."""
        return value if self.label or not isinstance(value, list | dict) else None

    def pair_fields(self, fields: Mapping[str, object]) -> dict[str, object]:
        """{captions, label, noise} of a row, raw, for `checked`."""
        names = {role: self.find(role, fields) for role in ("caption", "label", "noise")}
        values = {role: fields[name] if name else None for role, name in names.items()}
        values["label"] = self.own_label(values["label"])
        return {"captions": values.pop("caption"), **values}


def require_two(image: str, caption: str, names: Sequence[str], where: str) -> None:
    """UserError: both roles have one column, or several columns have the name of one."""
    if image == caption:
        raise UserError(
            f"{where}: column {image!r} cannot be both picture and caption; found {list(names)}. "
            "Give --image_column and --caption_column."
        )
    for column in (image, caption):
        if (n := names.count(column)) > 1:
            raise UserError(
                f"{where}: {n} columns are called {column!r}. Rename all but one of them."
            )


@functools.lru_cache(maxsize=1024)
def _first_of(wanted: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    known = _folded(names)
    return next((known[_fold(name)] for name in wanted if _fold(name) in known), None)


@functools.lru_cache(maxsize=64)
def _folded(names: tuple[str, ...]) -> dict[str, str]:
    return {_fold(name): name for name in reversed(names)}


def _fold(name: str) -> str:
    return name.strip().casefold()


class NotText(ValueError):
    """What stands in the place of a caption or a class is no text."""


def texts(value: object) -> list[bytes]:
    """Captions of any type: a text, an object with one of TEXT_FIELDS, or a list of these.

    Nothing for null and NaN; NotText, whose message shows it, for anything else.
    """
    if isinstance(value, list | tuple):
        return [text for item in value for text in _text(item)]
    return _text(value)


def _text(value: object) -> list[bytes]:
    if isinstance(value, dict):
        value = next((value[f] for f in TEXT_FIELDS if isinstance(value.get(f), str)), value)
    if isinstance(value, bytes):
        return [value]
    if isinstance(value, str):
        return [encoded(value)]
    if _is_missing(value):
        return []
    raise NotText(f"its caption is {_kind(value)}, not a text: {str(value)[:60]}")


def label_text(value: object) -> str | None:
    """A class of any type as text; None for none. NotText: neither text nor number."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if _is_missing(value):
        return None
    if isinstance(value, str | int | float):
        # No surrogates: the name of a class goes into the manifest. And no `?`: two names that
        # differ in a byte that is no UTF-8 are two classes.
        text = encoded(str(value).strip())
        return text.decode("utf-8", "backslashreplace") if is_text(text) else None
    raise NotText(f"its class is {_kind(value)}, not a text: {str(value)[:60]}")


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    kinds = {int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


def encoded(text: str) -> bytes:
    """UTF-8, with bytes that a file gave as they were, and `?` for what JSON made up."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def checked(
    key: str, image: bytes, captions: object, label: object = None, noise: object = None
) -> Pair | Rejected:
    """A Pair of captions and class of any type, or the reason why it is none."""
    try:
        return Pair(key, image, texts(captions), label_text(label), label_text(noise))
    except NotText as error:
        return Rejected(key, str(error))
