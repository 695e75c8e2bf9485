"""Builds and extends an image index from a folder or a data set."""

import io
import itertools
import json
import os
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from jest_tf.data.cleaning import IMAGE_ENDINGS, check_images, normalised, open_image
from jest_tf.data.evaluation_data import EvaluationData
from jest_tf.data.formats.files import ends_as, walk
from jest_tf.data.sources import open_source
from jest_tf.errors import UserError, why
from jest_tf.progress import Counter
from jest_tf.serving.encoders import ExportEncoder
from jest_tf.serving.image_index import META, ImageIndex, Item

NOT_INDEXED = "not_indexed.jsonl"  # in the folder of an index: what the last run left out
SHOWN = 10  # of them, on the screen
THUMBNAIL_SIZE = 128
# Rows become durable so many at a time: an interrupted run loses no more than these.
COMMIT_ROWS = 2048
# Files in memory at a time; photographs of 10 MB make this 320 MB.
READ_AHEAD = 32


@dataclass
class Report:
    """What became of the images."""

    added: int = 0
    known: int = 0
    total: int = 0
    gone: int = 0  # rows of earlier runs whose image is in the source no longer; they stay
    seen: set[str] = field(default_factory=set)  # ids of all that is in the source
    not_indexed: dict[str, str] = field(default_factory=dict)  # path -> why

    def text(self) -> str:
        text = f"{self.added:,} images embedded, {self.known:,} known, {self.total:,} in the index"
        if self.gone:
            text += f", {self.gone:,} of them no longer there (a new folder would leave them out)"
        return text + self.passed_over()

    def passed_over(self) -> str:
        """Empty, or the first of what is not in the index."""
        if not self.not_indexed:
            return ""
        shown = list(self.not_indexed.items())[:SHOWN]
        first = "".join(f"\n  {path}: {reason}" for path, reason in shown)
        more = len(self.not_indexed) - SHOWN
        rest = f"\n  ... and {more:,} more, all in {NOT_INDEXED} of the index" if more > 0 else ""
        return f"; {len(self.not_indexed):,} left out:{first}{rest}"


_Rows = tuple[list[Item], np.ndarray, list[bytes]]  # k items, zimg [k, d], thumbnails (k or none)


def add_images(
    path: str | os.PathLike,
    images: str,
    encoder: ExportEncoder,
    batch_size: int = 128,
    data_dir: str | None = None,
) -> Report:
    """Embeds images into the index at `path`, made if it is not there; a batch in memory at a time.

    Skips images that the index holds in this version (size and time of the file). images: a folder,
    with its subfolders; `tfds:NAME[/CONFIG][:SPLIT]`; or what `prepare` wrote. The last two bring
    captions. UserError: no images, or an index of another model.
    """
    report = Report()
    keep_thumbnails = images.startswith("tfds:") or (Path(images) / "manifest.json").is_file()
    # The source is looked at first: a mistyped one must not leave an empty index behind.
    if keep_thumbnails:
        if not images.startswith("tfds:"):
            images = os.path.abspath(images)  # its rows are found again from any folder
        data = EvaluationData(open_source(images, data_dir), encoder.decode_size, encoder.pixels)
        index = _open_or_create(Path(path), encoder)
        source = f"{images}#"
        n, found = data.manifest.n_records, _of_data_set(data, images, index, batch_size, report)
    else:
        items = _folder_items(Path(images), Path(path), report)
        index = _open_or_create(Path(path), encoder)
        source = f"{Path(images).resolve()}/"
        n, found = len(items) + len(report.not_indexed), _of_files(items, index, report)
    pending: list[_Rows] = []
    with Counter(f"indexing {images}", n, "pictures") as counter:
        for batch in _batched(found, batch_size):
            pending.append(_embed(batch, encoder, batch_size, keep_thumbnails, report))
            if sum(len(items) for items, _, _ in pending) >= COMMIT_ROWS:
                _commit(index, pending)
            counter.add(report.added + report.known + len(report.not_indexed) - counter.done)
    _commit(index, pending)
    report.total = len(index)
    report.gone = sum(i.startswith(source) and i not in report.seen for i in index.row_of)
    left_out = report.not_indexed.items()
    lines = [json.dumps({"file": file, "reason": reason}) for file, reason in left_out]
    (Path(path) / NOT_INDEXED).write_text("".join(f"{line}\n" for line in lines))
    return report


def _open_or_create(path: Path, encoder: ExportEncoder) -> ImageIndex:
    if not (path / META).exists():
        model = {
            "path": os.path.abspath(encoder.path),
            "fingerprint": encoder.fingerprint,
            "name": encoder.description["model"],
            "preprocessing": encoder.info["preprocessing"],
        }
        return ImageIndex.create(path, encoder.info["embed_dim"], model)
    index = ImageIndex.open(path)
    index.require_model(encoder.fingerprint, encoder.path)
    index.drop_uncommitted()
    return index


def _folder_items(folder: Path, index: Path, report: Report) -> list[Item]:
    """All image files below a folder, by path; what `prepare` would pass over is passed over."""
    if not folder.is_dir():
        raise UserError(f"--images={folder} is no folder; for a data set write tfds:NAME[:SPLIT]")
    items = []
    for file in walk(str(folder), skip=str(index)):
        path, is_image = folder / file.name, ends_as(file.name, IMAGE_ENDINGS)
        if file.passed_over and (is_image or file.passed_over != "hidden"):
            report.not_indexed[str(path)] = file.passed_over
        elif is_image:
            try:
                status = path.stat()
                version = f"{status.st_size}-{status.st_mtime_ns}"
                label = os.fsencode(path.relative_to(folder)).decode("utf-8", "replace")
                items.append(Item(str(path.resolve()), label, version))
            except OSError as error:
                report.not_indexed[str(path)] = why(error)
    if not items:
        raise UserError(
            f"--images={folder} holds no readable file that ends in {', '.join(IMAGE_ENDINGS)}"
            + report.passed_over()
        )
    once: dict[str, Item] = {}
    for item in sorted(items, key=lambda item: item.label):
        if once.setdefault(item.id, item) is not item:
            report.not_indexed[str(folder / item.label)] = f"the same file as {once[item.id].label}"
    return list(once.values())


def _of_files(items: list[Item], index: ImageIndex, report: Report) -> Iterator[tuple[Item, bytes]]:
    """New and changed files, read by a few threads ahead of their use."""
    report.seen.update(item.id for item in items)
    wanted = [item for item in items if not index.is_current(item)]
    report.known = len(items) - len(wanted)
    with futures.ThreadPoolExecutor(8) as pool:
        for part in _batched(iter(wanted), READ_AHEAD):
            for item, encoded in zip(part, pool.map(_read, part), strict=True):
                if isinstance(encoded, OSError):
                    report.not_indexed[item.id] = why(encoded)
                else:
                    yield item, encoded


def _read(item: Item) -> bytes | OSError:
    """The file as the model reads it, or why it cannot be read."""
    try:
        return normalised(Path(item.id).read_bytes())
    except OSError as error:
        return error


def _of_data_set(
    data: EvaluationData, source: str, index: ImageIndex, batch_size: int, report: Report
) -> Iterator[tuple[Item, bytes]]:
    """Images of a data set; the number of an image in the set is its identity."""
    version = data.manifest.fingerprint
    number = itertools.count()
    for batch in data.batches(batch_size):
        captions = batch.captions or [[] for _ in batch.encoded]
        for encoded, of_image in zip(batch.encoded, captions, strict=True):
            label = " · ".join(of_image)
            item = Item(id=f"{source}#{next(number)}", label=label, version=version)
            report.seen.add(item.id)
            if index.is_current(item):
                report.known += 1
            else:
                yield item, encoded
    if data.n_skipped:
        report.not_indexed[source] = f"{data.n_skipped:,} records could not be read"


def _embed(
    batch: list[tuple], encoder: ExportEncoder, batch_size: int, thumbs: bool, report: Report
) -> _Rows:
    """The decodable images of a batch of (item, file), with thumbnails if `thumbs`."""
    files = [encoded for _, encoded in batch]
    # Always full batches: the model then runs one shape, on every device.
    zimg, ok = encoder.encode_image_bytes(files + [b""] * (batch_size - len(batch)))
    zimg, ok = zimg[: len(batch)], ok[: len(batch)]
    bad = [image for image, good in zip(batch, ok, strict=True) if not good]
    checked = check_images([encoded for _, encoded in bad])
    for (item, _), (_, _, problem) in zip(bad, checked, strict=True):
        report.not_indexed[item.id] = problem or "the model's decoder refuses it"
    report.added += int(ok.sum())
    kept = [image for image, good in zip(batch, ok, strict=True) if good]
    thumbnails = [_jpeg(encoded) for _, encoded in kept] if thumbs else []
    return [item for item, _ in kept], zimg[ok], thumbnails


def _commit(index: ImageIndex, pending: list[_Rows]) -> None:
    """Writes what is pending, and empties it."""
    if any(items for items, _, _ in pending):
        items, zimg, thumbnails = zip(*pending, strict=True)
        index.add([*chain(*items)], np.concatenate(zimg), [*chain(*thumbnails)])
    pending.clear()


def _jpeg(encoded: bytes) -> bytes:
    """A small JPEG of an image; the image itself where Pillow cannot read what TensorFlow can."""
    image = open_image(lambda mode: io.BytesIO(encoded))
    if image is None:
        return encoded
    out = io.BytesIO()
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.LANCZOS)
    image.save(out, "JPEG", quality=88)
    return out.getvalue()


def _batched(items: Iterator, size: int) -> Iterator[list]:
    while batch := list(itertools.islice(items, size)):
        yield batch
