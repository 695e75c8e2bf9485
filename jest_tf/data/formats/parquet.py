"""Parquet as on the hub: an image column of {bytes, path}, bytes or paths, and a text column."""

import dataclasses
import functools
import os
from collections.abc import Iterator

from jest_tf.data.formats import files, pairs
from jest_tf.errors import UserError
from jest_tf.files import parse_json

ENDINGS = (".parquet",)
BATCH_ROWS = 64


@dataclasses.dataclass(frozen=True)
class ParquetSource:
    """A file, the column of each role, and the names of its classes where the hub stores them."""

    path: str
    name: str
    place: files.Place
    columns: pairs.Columns
    roles: dict[str, str]
    classes: tuple[str, ...]


def open_parquet(settings: pairs.Settings) -> pairs.Opened:
    """A unit per row group. UserError: no Parquet, or no usable image or caption column."""
    found = files.find(settings.paths, ENDINGS, settings.out)
    place, units = files.Place(found.root, settings.allow_outside), []
    for name, _, _ in found.files:
        source, n_groups = _inspect(found.path(name), name, place, settings.columns)
        units += [
            pairs.Unit(f"{name}:{group}", functools.partial(read_row_group, source, group))
            for group in range(n_groups)
        ]
    return pairs.Opened(found.root, found.files, units, found.passed_over)


def _inspect(
    path: str, name: str, place: files.Place, columns: pairs.Columns
) -> tuple[ParquetSource, int]:
    """(what the schema says, number of row groups)"""
    with files.open_parquet(path) as file:
        schema, n_groups = file.schema_arrow, file.num_row_groups
    # The pictures themselves rather than a column of their names.
    pictures = next((name for name in ("image", "jpg", "img") if name in schema.names), None)
    in_hub_order = dataclasses.replace(columns, image=columns.image or pictures)
    roles = {role: in_hub_order.require(role, schema.names, path) for role in ("image", "caption")}
    if columns.label:
        columns.require("label", schema.names, path)
    for role in ("label", "noise"):
        if column := columns.find(role, schema.names):
            roles[role] = column
    kind = schema.field(roles["caption"]).type
    if not _is_text(kind):
        raise UserError(
            f"{path}: column {roles['caption']!r} is {kind}; captions are texts or lists of texts. "
            "Name another one with --caption_column."
        )
    classes = _class_names(schema, roles.get("label"))
    return ParquetSource(path, name, place, columns, roles, classes), n_groups


def _is_text(kind) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind):
        return _is_text(kind.value_type)
    if types.is_struct(kind):
        names = {kind.field(i).name for i in range(kind.num_fields)}
        return bool(names & set(pairs.TEXT_FIELDS))
    text = (types.is_string, types.is_large_string, types.is_binary, types.is_null)
    return any(is_kind(kind) for is_kind in text)


def _class_names(schema, label: str | None) -> tuple[str, ...]:
    """The hub notes the features of a data set beside the schema."""
    try:
        info = parse_json((schema.metadata or {})[b"huggingface"])
        return tuple(map(str, info["info"]["features"][label]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


def read_row_group(source: ParquetSource, group: int) -> Iterator[pairs.Item]:
    """The records of one row group, a few rows at a time: some files have one group of all."""
    import pyarrow.parquet as pq

    key = f"{source.name}:{group}"
    number, n_rows = -1, 0
    try:
        with pq.ParquetFile(files.open_binary(source.path)) as file:
            n_rows = file.metadata.row_group(group).num_rows
            wanted = list(dict.fromkeys(source.roles.values()))
            batches = file.iter_batches(BATCH_ROWS, [group], wanted)
            for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
                yield _pair(source, f"{key}:{number}", row)
    except Exception as error:  # pyarrow raises many types for damaged pages
        if not n_rows:
            raise UserError(f"{source.path} cannot be read: {files.why(error)}") from error
        for lost in range(number + 1, n_rows):
            yield pairs.Rejected(f"{key}:{lost}", f"its row group is damaged: {files.why(error)}")


def _pair(source: ParquetSource, key: str, row: dict) -> pairs.Item:
    fields = {role: row[column] for role, column in source.roles.items()}
    content, label, where = fields["image"], fields.get("label"), None
    if isinstance(content, dict):
        content, where = content.get("bytes"), content.get("path")
    if isinstance(content, str):
        content, where = None, content
    if not content and isinstance(where, str):
        try:
            content = source.place.read(where, os.path.dirname(source.name))
        except files.READ_ERRORS as error:
            return pairs.Rejected(key, f"{where[:200]}: {files.why_rejected(error)}")
    if not isinstance(content, bytes) or not content:
        return pairs.Rejected(key, "no image bytes")
    if isinstance(label, int) and 0 <= label < len(source.classes):
        label = source.classes[label]
    label = source.columns.own_label(label)
    return pairs.checked(key, content, fields["caption"], label, fields.get("noise"))
