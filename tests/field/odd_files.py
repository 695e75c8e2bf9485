"""Small pictures, tars, and what `prepare` made of a source."""

import io
import json
import pathlib
import tarfile

from PIL import Image

from jest_tf.data.records import shard_records
from jest_tf.data.sources import open_source


def picture(number: int = 0, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (12, 8), (number * 37 % 256, 90, 200)).save(out, kind)
    return out.getvalue()


def pictures(folder: pathlib.Path, n: int = 4) -> pathlib.Path:
    """0.jpg … in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        (folder / f"{i}.jpg").write_bytes(picture(i))
    return folder


def tar(path: pathlib.Path, members: list[tuple[str, bytes]], mode: str = "w") -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def captions_of(out) -> list[list[str]]:
    """Of each record, in order."""
    manifest = open_source(str(out))
    shards = range(len(manifest.shards))
    records = [record for index in shards for record in shard_records(manifest, index)]
    return [[text.decode() for text in record.captions] for record in records]


def features_of(out) -> list[dict]:
    """Every feature of each record: bytes as text, or numbers."""
    import tensorflow as tf

    found = []
    for shard in open_source(str(out)).shards:
        for serialized in tf.data.TFRecordDataset(shard.path).as_numpy_iterator():
            feature = tf.train.Example.FromString(serialized).features.feature
            found.append(
                {
                    name: list(value.int64_list.value)
                    or [v.decode("utf-8", "surrogateescape") for v in value.bytes_list.value]
                    for name, value in feature.items()
                    if name != "image"
                }
            )
    return found


def rejected_of(out) -> dict[str, str]:
    path = pathlib.Path(out) / "rejected.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return {row["record"]: row["reason"] for row in map(json.loads, lines)}
