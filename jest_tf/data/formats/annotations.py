"""Caption files of published sets: COCO's and Karpathy's JSON, Flickr's .token; a list of rows."""

import os
import re
from collections import Counter
from collections.abc import Iterator

from jest_tf.data.formats.files import READ_ERRORS, open_binary, why
from jest_tf.data.formats.pairs import Columns
from jest_tf.data.formats.table import Row, _lines
from jest_tf.errors import UserError, explaining
from jest_tf.files import parse_json

ENDINGS = (".json", ".token", ".token.txt")


def annotation_rows(
    path: str, folder: str, columns: Columns, split: tuple[str, ...]
) -> Iterator[Row]:
    """A row per caption of a file that one of ENDINGS names. JSON is read whole.

    folder: with the pictures. split: of Karpathy's JSON; empty: all. UserError: another format.
    """
    if not path.lower().endswith(".json"):
        yield from _token_rows(path)
        return
    text = f"{path} cannot be read as JSON: {{error}}"
    with explaining(READ_ERRORS, text, why), open_binary(path) as file:
        content = parse_json(file.read())
    if isinstance(content, list):
        yield from _listed(content, columns)
        return
    images = content.get("images") if isinstance(content, dict) else None
    if isinstance(images, list) and isinstance(content.get("annotations"), list):
        yield from _coco(path, images, content["annotations"])
    elif isinstance(images, list) and any("sentences" in i for i in images if isinstance(i, dict)):
        yield from _karpathy(path, folder, images, split)
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


def _listed(content: list, columns: Columns) -> Iterator[Row]:
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
