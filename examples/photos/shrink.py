"""Made data/photos from the WebDataset tars of the Grocery Store Dataset (MIT).

    python -m examples.photos.shrink --source=DIR

DIR holds grocery-{pool,curated,test}.tar. Every picture becomes a WebP of 56 px on its shorter
side, since the models of the examples look at 48 px; of the test pairs every third is kept.
"""

import io
import pathlib
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
from absl import flags
from PIL import Image

from jest_tf import cli, config_flag
from jest_tf.files import parse_json

FLAGS = flags.FlagValues()
_SOURCE = flags.DEFINE_string("source", None, "Folder of the tars.", flag_values=FLAGS)
_OUT = flags.DEFINE_string("out", "data/photos", "Folder to write.", flag_values=FLAGS)

SIDE, QUALITY = 56, 65
EVERY = {"pool": 1, "curated": 1, "test": 3}


def main(argv: list[str]) -> None:
    """Writes OUT/{pool,curated,test}.parquet."""
    config_flag.refuse_extra(argv)
    for name, every in EVERY.items():
        rows = read_rows(pathlib.Path(_SOURCE.value) / f"grocery-{name}.tar")[::every]
        path = pathlib.Path(_OUT.value) / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
        print(f"{path}: {len(rows):,} pairs, {path.stat().st_size / 1e6:.2f} MB")


def read_rows(path: pathlib.Path) -> list[dict]:
    """The pairs of a tar, pictures shrunk: {image, caption, label, coarse, noise}."""
    with tarfile.open(path) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}
    rows = []
    for name in sorted(n for n in members if n.endswith(".jpg")):
        key = name.removesuffix(".jpg")
        about = parse_json(members[f"{key}.json"])
        row = {"image": shrunk(members[name]), "caption": members[f"{key}.txt"].decode()}
        row |= {"label": about["fine"], "coarse": about["coarse"]}
        rows.append(row | ({"noise": about["noise"]} if "noise" in about else {}))
    return rows


def shrunk(jpeg: bytes) -> bytes:
    """A picture as a small WebP."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    factor = SIDE / min(image.size)
    size = tuple(round(side * factor) for side in image.size)
    out = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(out, "WEBP", quality=QUALITY, method=6)
    return out.getvalue()


if __name__ == "__main__":
    cli.run(main, FLAGS)
