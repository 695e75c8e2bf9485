"""What a record says by its Source, read in a graph and in Python by one rule."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import tensorflow as tf

from jest_tf.data.manifest import Source

# A caption is empty when its first bytes, as UTF-8, hold nothing that can be seen.
MAX_JUDGED_BYTES = 4096
# Blanks and control characters; what Unicode lets a font ignore (zero-width characters, byte-order
# marks, marks of direction, fillers, selectors of variants); the Braille cell without a dot. As
# ranges, since the tables of RE2 and of Python are of different versions of Unicode.
_UNSEEN = (
    (0x00, 0x20), (0x7F, 0xA0), (0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160),
    (0x1680, 0x1680), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2000, 0x200F), (0x2028, 0x202F),
    (0x205F, 0x206F), (0x2800, 0x2800), (0x3000, 0x3000), (0x3164, 0x3164), (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)  # fmt: skip
_EMPTY = rf"[\x00-\x20{''.join(f'{chr(a)}-{chr(b)}' for a, b in _UNSEEN[1:])}]*"
ALL = ("image", "captions", "id", "key", "label")


def hash64(data: bytes) -> int:
    """64 bits of BLAKE2b, signed: fits an int64 array."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def parse_examples(serialized: tf.Tensor, spec: Mapping) -> dict:
    """`tf.io.parse_example` (string [c], features by name) that survives forged records.

    TensorFlow's fast parser trusts a string's length: a forged one makes it read foreign memory,
    which ends the process. So protobuf's parser reads the records first, in a few microseconds
    each. Raises in graph where a record is no Example with the features of `spec`.
    """
    sizes, _ = tf.io.decode_proto(
        serialized, "tensorflow.Example", ["features"], [tf.string], sanitize=True
    )
    # An assertion about what was read: Grappler drops operations without side effects that are only
    # waited for.
    # A record and the picture behind it (in_place.py) have one list of features each.
    with tf.control_dependencies([tf.debugging.assert_less(sizes, 3)]):
        return tf.io.parse_example(tf.identity(serialized), spec)


def example(features: Mapping[str, Iterable[int] | Iterable[bytes]]) -> bytes:
    """A serialized tf.train.Example of lists of whole numbers or of bytes."""
    kept = {}
    for name, values in features.items():
        values = list(values)
        if values and not isinstance(values[0], bytes):
            kept[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        else:
            kept[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    # Otherwise the order of the features differs from process to process.
    whole = tf.train.Example(features=tf.train.Features(feature=kept))
    return whole.SerializeToString(deterministic=True)


def are_texts(captions: tf.Tensor) -> tf.Tensor:
    """bool [...]: which captions (string [...]) are not empty."""
    start = tf.strings.substr(captions, 0, MAX_JUDGED_BYTES)
    text = tf.strings.unicode_transcode(start, "UTF-8", "UTF-8", "ignore")
    return ~tf.strings.regex_full_match(text, _EMPTY)


def is_text(caption: bytes) -> bool:
    """`are_texts` of one caption, in Python."""
    return not re.fullmatch(_EMPTY, caption[:MAX_JUDGED_BYTES].decode("utf-8", "ignore"))


def in_graph(source: Source, serialized: tf.Tensor, wanted: tuple[str, ...] = ALL) -> dict:
    """Fields of c records (string [c]), those of `wanted` that the source has a feature for.

    image string [c]; captions Ragged string [c, None], also of a source whose labels are its
    captions; id int64 [c]; key string [c]; label int64 [c], -1 where there is none. Raises in graph
    where a record is no tf.train.Example of these features.
    """
    kinds = {
        "image": tf.io.FixedLenFeature([], tf.string, ""),
        "captions": tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64),
        "id": tf.io.FixedLenFeature([], tf.int64, -1),
        "key": tf.io.FixedLenFeature([], tf.string, ""),
        "label": tf.io.FixedLenFeature([], tf.int64, -1),
    }
    named = "captions" in wanted and not source.captions
    names = {name: getattr(source, name) for name in ALL if name in wanted}
    if named:
        names["label"] = source.label
    names = {name: feature for name, feature in names.items() if feature}
    parsed = parse_examples(serialized, {names[name]: kinds[name] for name in names})
    fields = {name: parsed[feature] for name, feature in names.items()}
    if named:
        label = fields["label"]
        is_known = (label >= 0) & (label < len(source.labels))
        texts = tf.gather(tf.constant(source.labels), tf.boolean_mask(label, is_known))
        fields["captions"] = tf.RaggedTensor.from_row_lengths(texts, tf.cast(is_known, tf.int64))
    return fields


class Record(NamedTuple):
    """`in_graph` of one record, in Python: id and label are -1, and key is empty, without one."""

    id: int
    key: bytes
    image: bytes
    captions: list[bytes]
    label: int


UNREADABLE = Record(-1, b"", b"", [], -1)


def in_python(source: Source, serialized: bytes) -> Record:
    """Fields of one record; UNREADABLE where `in_graph` raises."""
    try:
        features = tf.train.Example.FromString(serialized).features.feature
    except Exception:  # protobuf's DecodeError has no stable import path
        return UNREADABLE
    fields = {}
    for name in ALL:
        feature = features[getattr(source, name)] if getattr(source, name) else None
        kind = "int64_list" if name in ("id", "label") else "bytes_list"
        if feature is None or feature.WhichOneof("kind") is None:
            fields[name] = []
            continue
        fields[name] = list(getattr(feature, kind).value)
        if feature.WhichOneof("kind") != kind or (name != "captions" and len(fields[name]) != 1):
            if (name == "key" and source.id) or (name == "label" and source.captions):
                fields[name] = []  # training does not read it
            else:
                return UNREADABLE
    label = fields["label"][0] if fields["label"] else -1
    if not source.captions and 0 <= label < len(source.labels):
        fields["captions"] = [source.labels[label].encode()]
    record_id = fields["id"][0] if fields["id"] else -1
    image, key = (fields[name][0] if fields[name] else b"" for name in ("image", "key"))
    return Record(record_id, key, image, fields["captions"], label)
