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


def open_parquet(settings: pairs.Settings) -> pairs.Opened:
    """A unit per row group. UserError: no Parquet, or no usable image or caption column."""
    found = files.find(settings.paths, ENDINGS, settings.out)
    place, units = files.Place(found.root, settings.allow_outside), []
    for name, _, _ in found.files:
        file = _File(found.path(name), name, place, settings.columns)
        units += [
            pairs.Unit(f"{name}:{group}", functools.partial(file.read, group))
            for group in range(file.n_groups)
        ]
    return pairs.Opened(found.root, found.files, units, found.passed_over)


class _File:
    """A file, the column of each role, and the names of its classes where the hub stores them."""

    def __init__(self, path: str, name: str, place: files.Place, columns: pairs.Columns):
        self.path, self.name, self.place, self.columns = path, name, place, columns
        with files.open_parquet(path) as file:
            schema, self.n_groups = file.schema_arrow, file.num_row_groups
        # The pictures themselves rather than a column of their names.
        names = schema.names
        pictures = next((name for name in ("image", "jpg", "img") if name in names), None)
        in_hub_order = dataclasses.replace(columns, image=columns.image or pictures)
        self.roles = {r: in_hub_order.require(r, names, path) for r in ("image", "caption")}
        if columns.label:
            columns.require("label", names, path)
        pairs.require_two(self.roles["image"], self.roles["caption"], names, path)
        for role in ("label", "noise"):
            if column := columns.find(role, names):
                self.roles[role] = column
        kind = schema.field(self.roles["caption"]).type
        if not _is_text(kind):
            raise UserError(
                f"{path}: column {self.roles['caption']!r} is {kind}; captions are texts or lists "
                "of texts. Name another one with --caption_column."
            )
        try:  # the hub notes the features of a data set beside the schema
            info = parse_json((schema.metadata or {})[b"huggingface"])
            label = info["info"]["features"][self.roles.get("label")]
            self.classes = tuple(map(str, label["names"]))
        except (KeyError, TypeError, ValueError):
            self.classes = ()

    def read(self, group: int) -> Iterator[pairs.Item]:
        """The records of one row group, a few rows at a time: some files have one group of all."""
        import pyarrow.parquet as pq

        key = f"{self.name}:{group}"
        number, n_rows = -1, 0
        try:
            with pq.ParquetFile(files.open_binary(self.path)) as file:
                n_rows = file.metadata.row_group(group).num_rows
                wanted = list(dict.fromkeys(self.roles.values()))
                batches = file.iter_batches(BATCH_ROWS, [group], wanted)
                for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
                    yield self._pair(f"{key}:{number}", row)
        except Exception as error:  # pyarrow raises many types for damaged pages
            if not n_rows:
                raise UserError(f"{self.path} cannot be read: {files.why(error)}") from error
            reason = f"its row group is damaged: {files.why(error)}"
            for lost in range(number + 1, n_rows):
                yield pairs.Rejected(f"{key}:{lost}", reason)

    def _pair(self, key: str, row: dict) -> pairs.Item:
        fields = {role: row[column] for role, column in self.roles.items()}
        content, label, where = fields["image"], fields.get("label"), None
        if isinstance(content, dict):
            content, where = content.get("bytes"), content.get("path")
        if isinstance(content, str):
            content, where = None, content
        if not content and isinstance(where, str):
            try:
                content = self.place.read(where, os.path.dirname(self.name))
            except files.READ_ERRORS as error:
                return pairs.Rejected(key, f"{where[:200]}: {files.why_rejected(error, True)}")
        if not isinstance(content, bytes) or not content:
            return pairs.Rejected(key, "no image bytes")
        if isinstance(label, int) and 0 <= label < len(self.classes):
            label = self.classes[label]
        label = self.columns.own_label(label)
        return pairs.checked(key, content, fields["caption"], label, fields.get("noise"))


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
