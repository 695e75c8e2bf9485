"""The shipped image-text set as a TFDS builder: `tfds.load("emoji_captions/pool")`.

What the rows are, where they come from and under which licences: data/emoji/README.md.
"""

import dataclasses
import functools
import hashlib
import io
import json
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from jest_tf.errors import UserError
from jest_tf.files import parse_json

SOURCE_DIR = pathlib.Path(__file__).resolve().parents[2] / "data" / "emoji"
IMAGE_SIZE = 64
# As data/emoji/README.md defines them: the pair says nothing true, or nothing at all.
NOISY = frozenset({"shuffled", "boilerplate", "truncated", "bad_image"})
LICENCES = [
    "Images of the shipped emoji set, per record: Apache-2.0 (Noto, FxEmoji), CC-BY-4.0 (Twemoji, "
    "EmojiTwo, Streamline), CC-BY-SA-4.0 (OpenMoji, EmojiOne v1), MIT (Fluent, Flat Color Icons, "
    "Meteocons), CC-BY-3.0 (Game Icons)",
    "Names and keywords: MIT (emojibase-data with CLDR data under the Unicode licence, emojilib)",
]
LIMITS = [
    "Trained on emoji and icons alone: it knows their names, and nothing of photographs",
    "99.6% of the evaluation captions occur verbatim in the training text: the retrieval scores "
    "measure a new vendor's drawings, not new text",
]
N_IMAGE_SHARDS = 4


@dataclasses.dataclass
class EmojiConfig(tfds.core.BuilderConfig):
    """One table of the set; `num_shards` is fixed so that every checkout splits data alike."""

    rows_file: str = ""
    num_shards: int = 1
    evaluation: bool = False


CONFIGS = [
    EmojiConfig(
        name="pool",
        description="60,000 uncurated pairs, 8 known kinds of noise: what a learner chooses from.",
        rows_file="pool.jsonl",
        num_shards=64,
    ),
    EmojiConfig(
        name="curated",
        description="5,546 clean images with 1-8 captions each: what a reference is trained on.",
        rows_file="curated.jsonl",
        num_shards=16,
    ),
    EmojiConfig(
        name="eval_retrieval",
        description="1,690 pairs of a vendor that no training table holds.",
        rows_file="eval_retrieval.jsonl",
        num_shards=8,
        evaluation=True,
    ),
    EmojiConfig(
        name="eval_zero_shot",
        description="1,302 images of the held-out vendor in 64 classes.",
        rows_file="eval_zero_shot.jsonl",
        num_shards=8,
        evaluation=True,
    ),
]


class EmojiCaptions(tfds.core.GeneratorBasedBuilder):
    """TFDS builder. Training tables have a split `train`, the others `validation` and `test`."""

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {"1.1.0": "Licences, limits and noise labels beside the same records."}
    BUILDER_CONFIGS = CONFIGS

    def __init__(self, *, source_dir: str | None = None, **kwargs):
        """Args:
        source_dir: folder with the files of data/emoji; the checkout's own by default.
        """
        super().__init__(**kwargs)
        self._source_dir = pathlib.Path(source_dir) if source_dir else SOURCE_DIR

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Scalar(np.int64),
            "key": tfds.features.Text(),
            "image": tfds.features.Image(shape=(IMAGE_SIZE, IMAGE_SIZE, 3), encoding_format="png"),
            "license": tfds.features.Text(),
        }
        name = self.builder_config.name
        if name == "curated":
            features["captions"] = tfds.features.Sequence(tfds.features.Text())
        else:
            features["caption"] = tfds.features.Text()
        if name == "pool":
            features["noise"] = tfds.features.Text()
        if name == "eval_zero_shot":
            features["label"] = tfds.features.ClassLabel(num_classes=64)
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            description=self.builder_config.description,
            metadata=tfds.core.MetadataDict(licences=LICENCES, limits=LIMITS),
            license="Per record, in the feature `license`; see data/emoji/README.md.",
        )

    def download_and_prepare(self, *, download_config=None, **kwargs) -> None:
        """As in TFDS, but with this table's own number of shards: lanes are cut from shards."""
        download_config = download_config or tfds.download.DownloadConfig()
        download_config = dataclasses.replace(
            download_config, num_shards=self.builder_config.num_shards
        )
        super().download_and_prepare(download_config=download_config, **kwargs)
        if self.builder_config.name == "pool":
            self._write_labels()

    def _write_labels(self) -> None:
        """The known noise of every row, beside the shards: for measuring what was selected."""
        rows = [
            {"id": row_id, "label": noise, "noisy": noise in NOISY}
            for row_id, noise in noise_by_id(str(self._source_dir)).items()
        ]
        path = pathlib.Path(self.data_dir) / "labels.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def _split_generators(self, dl_manager) -> dict:
        del dl_manager  # Everything is in the checkout.
        config = self.builder_config
        rows = read_rows(self._source_dir, config.rows_file)
        images = read_images(self._source_dir)
        missing = [row["key"] for row in rows if row["key"] not in images]
        if missing:
            raise UserError(
                f"{self._source_dir / config.rows_file}: {len(missing)} of {len(rows)} keys have "
                f"no image in images-*.tfrecord, first {missing[0]!r}. The files do not belong "
                "together: restore data/emoji from the repository."
            )
        if config.name == "eval_zero_shot":
            classes = zero_shot_classes(self._source_dir)
            self.info.features["label"].names = [c["name"] for c in classes]
            self.info.metadata["label_texts"] = [c["prompt"] for c in classes]
        if not config.evaluation:
            return {"train": self._generate_examples(rows, images)}
        return {
            split: self._generate_examples([r for r in rows if split_of(r["key"]) == split], images)
            for split in ("validation", "test")
        }

    def _generate_examples(self, rows: list[dict], images: dict) -> Iterator[tuple[int, dict]]:
        prompts = self.info.metadata.get("label_texts")
        for row in rows:
            png, license_name = images[row["key"]]
            if row.get("img_op"):
                png = spoil_image(png, row["img_op"], row["id"])
            example = {
                "id": row["id"],
                "key": row["key"],
                "image": io.BytesIO(png),
                "license": license_name,
            }
            for name in ("caption", "captions", "noise"):
                if name in row:
                    example[name] = row[name]
            if prompts:
                example |= {"label": row["class"], "caption": prompts[row["class"]]}
            yield row["id"], example


def split_of(key: str) -> str:
    """`validation` (to choose on) or `test` (to touch once), as data/emoji/README.md defines."""
    digest = int(hashlib.sha1(key.encode()).hexdigest(), 16)
    return "validation" if digest % 5 == 0 else "test"


def spoil_image(png: bytes, op: str, row_id: int) -> bytes:
    """The known damage of a `bad_image` row, drawn from `numpy.random.default_rng(row_id)`.

    Args:
        png: the clean picture, 64 x 64 RGB.
        op: `noise` (uniform pixels), `blank` (one grey), `crop4` (a sixteenth of the area blown
            up), `blur` (averaged to 4 x 4 pixels).

    Returns:
        PNG bytes of the same size.
    """
    rng = np.random.default_rng(row_id)
    size, cell = IMAGE_SIZE, IMAGE_SIZE // 4
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    if op == "noise":
        pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
    elif op == "blank":
        pixels = np.full((size, size, 3), rng.integers(0, 256), np.uint8)
    elif op == "crop4":
        top, left = rng.integers(0, size - cell + 1, 2)
        crop = Image.fromarray(pixels[top : top + cell, left : left + cell])
        pixels = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR))
    elif op == "blur":
        means = pixels.reshape(4, cell, 4, cell, 3).mean((1, 3)).round().astype(np.uint8)
        pixels = means.repeat(cell, 0).repeat(cell, 1)
    else:
        raise UserError(f"row {row_id}: unknown img_op {op!r}; known: noise, blank, crop4, blur")
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def noise_by_id(source_dir: str | None = None) -> dict[int, str]:
    """id -> kind of noise of every pool row. For MEASURING what was picked, never for picking."""
    source = pathlib.Path(source_dir) if source_dir else SOURCE_DIR
    return {row["id"]: row["noise"] for row in read_rows(source, "pool.jsonl")}


def zero_shot_classes(source_dir: str | None = None) -> list[dict[str, str]]:
    """The 64 classes {name, prompt} in label order."""
    source = pathlib.Path(source_dir) if source_dir else SOURCE_DIR
    return parse_json(_read_text(source / "zero_shot_classes.json"))


def read_rows(source_dir: pathlib.Path, file_name: str) -> list[dict]:
    """Rows of one .jsonl table.

    Raises:
        UserError: missing or unreadable file, or a line that is not a row, with its number.
    """
    path = source_dir / file_name
    rows = []
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        try:
            row = parse_json(line)
            row["id"], row["key"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} line {number}: expected a JSON object with id and key, found "
                f"{line[:60]!r} ({error}). Restore the file from the repository."
            ) from error
        rows.append(row)
    if not rows:
        raise UserError(f"{path} is empty. Restore it from the repository.")
    return rows


@functools.lru_cache(maxsize=1)  # one table after the other is made of them
def read_images(source_dir: pathlib.Path) -> dict[str, tuple[bytes, str]]:
    """key -> (PNG bytes, licence) of every shipped image (40 MB).

    Raises:
        UserError: missing, empty or corrupt shard, or a record without key or image.
    """
    images = {}
    for shard in range(N_IMAGE_SHARDS):
        path = source_dir / f"images-{shard:05d}-of-{N_IMAGE_SHARDS:05d}.tfrecord"
        restore = "Restore it from the repository (git checkout -- data/emoji)."
        count = 0
        try:
            for serialized in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                feature = tf.train.Example.FromString(serialized).features.feature
                key, image, license_name = (
                    feature[name].bytes_list.value[0] for name in ("key", "image", "license")
                )
                images[key.decode()] = (image, license_name.decode())
                count += 1
        except tf.errors.OpError as error:
            raise UserError(f"{path} record {count}: {error.message}. {restore}") from error
        except Exception as error:  # protobuf's DecodeError has no stable import path
            raise UserError(
                f"{path} record {count}: not an example with key, image and license "
                f"({type(error).__name__}: {error}). {restore}"
            ) from error
        if count == 0:
            raise UserError(f"{path} holds no record. {restore}")
    return images


def _read_text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read {path} ({type(error).__name__}: {error}). The emoji set lives in "
            "data/emoji of the repository: run from a checkout (pip install -e .), or pass "
            "source_dir."
        ) from error
