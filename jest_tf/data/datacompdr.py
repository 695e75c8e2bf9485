"""The embeddings that DataCompDR ships with its records, as a reference cache.

Its tars hold, for each record, KEY.npz with image_emb [augmentations, d0 + d1] and text_emb
[captions, d0 + d1]: two CLIP teachers side by side, the original caption first and synthetic ones
after it; and KEY.json with its uid. Records are found by their key or by that uid.
"""

import contextlib
import functools
import io
import tarfile
import zipfile
from collections.abc import Iterator, Sequence

import ml_dtypes
import numpy as np

from jest_tf.data.fields import hash64
from jest_tf.data.formats.files import READ_ERRORS, find, open_binary
from jest_tf.data.manifest import Manifest
from jest_tf.data.records import shard_records
from jest_tf.data.reference_cache import unit_norm
from jest_tf.errors import UserError, explaining
from jest_tf.files import parse_json

N_TEACHERS = 2
IMAGES, TEXTS = "image_emb", "text_emb"
# A record of 30 augmentations and 6 captions in float32 has 0.2 MB.
MAX_MEMBER_BYTES = 1 << 26


Member = tuple[int, int, int]  # where a KEY.npz lies: number of the tar, first byte, bytes


class DataCompDR:
    """The embeddings of one teacher (0 or 1), found by key. Holds 50 bytes a record, no embedding.

    UserError: no such tars, one that is damaged, or members of another layout.
    """

    def __init__(self, patterns: Sequence[str], teacher: int):
        found = find(patterns, (".tar",))
        self.tars = [found.path(name) for name, _, _ in found.files]
        self._teacher = teacher
        members: dict[int, Member] = {}
        for number, path in enumerate(self.tars):
            for key, member in _members(path, number):
                members.setdefault(hash64(key.encode()), member)
        if not members:
            raise UserError(
                f"{self.tars[0]} (and {len(self.tars) - 1} more) hold no KEY.npz: expected the "
                "tars of DataCompDR"
            )
        self._members = members
        zimg, _ = self.read(next(iter(members.values())))
        self.dim = len(zimg)

    def find(self, key: str) -> Member | None:
        """The member of a record, by its whole key or by what follows the name of its tar."""
        for name in (key, key.rpartition(":")[2], key.rpartition("/")[2]):
            if member := self._members.get(hash64(name.encode())):
                return member
        return None

    def read(self, member: Member) -> tuple[np.ndarray, np.ndarray]:
        """(zimg [d], ztxt [captions, d]) of unit norm; zimg: the mean over the augmentations."""
        tar, offset, size = member
        file = self._open(tar)
        file.seek(offset)
        content = file.read(size)
        with explaining(
            (*READ_ERRORS, KeyError, IndexError, EOFError, zipfile.BadZipFile),
            f"{self.tars[tar]}: the .npz at byte {offset} is not as DataCompDR's "
            f"({{error}}); expected {IMAGES} and {TEXTS}, each [n, {N_TEACHERS} teachers x d]",
        ):
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                both = [_floats(arrays[name]) for name in (IMAGES, TEXTS)]
            width = both[0].shape[1]
            if width != both[1].shape[1] or width % N_TEACHERS:
                raise ValueError(f"widths {width} and {both[1].shape[1]}")
        begin = self._teacher * width // N_TEACHERS
        images, texts = (unit_norm(x[:, begin : begin + width // N_TEACHERS]) for x in both)
        return unit_norm(images.mean(axis=0)), texts

    @functools.lru_cache(maxsize=8)  # noqa: B019  lives as long as the cache is filled
    def _open(self, tar: int):
        return open_binary(self.tars[tar])

    def rows(self, manifest: Manifest, index: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(id, zimg, ztxt) of a shard's records; n captions take the first n embeddings.

        UserError: a record without key or embedding, or with more captions than embeddings.
        """
        shard = manifest.shards[index]
        source = manifest.sources[shard.source]
        if not source.key or source.id:
            raise UserError(
                f"{source.name} has no keys to find DataCompDR's records by: prepare the data from "
                "its tars with `jest prepare`"
            )
        for record in shard_records(manifest, index, pictures=False):
            key = record.key.decode("utf-8", "replace")
            member = self.find(key)
            if member is None:
                raise UserError(
                    f"record {key!r} of {shard.path} is in none of the {len(self.tars)} tars of "
                    "DataCompDR, neither by its key nor by a uid. Give all tars, and data whose "
                    "keys are those of the tars."
                )
            zimg, ztxt = self.read(member)
            n_captions = max(1, len(record.captions))
            if n_captions > len(ztxt):
                raise UserError(
                    f"record {key!r} has {n_captions} captions and DataCompDR {len(ztxt)} text "
                    "embeddings: prepare the data without the others"
                )
            yield record.id, zimg, ztxt[:n_captions]


def _members(path: str, number: int) -> Iterator[tuple[str, Member]]:
    """(key, place) of each .npz, and the same place by the uid that its .json tells."""
    uids: dict[str, str] = {}
    found: dict[str, Member] = {}
    with (
        explaining(
            (*READ_ERRORS, tarfile.TarError), f"{path} cannot be read as a plain tar: {{error}}"
        ),
        open_binary(path) as file,
        tarfile.open(fileobj=file, mode="r:") as tar,
    ):
        for info in tar:
            key, _, ending = info.name.removeprefix("./").partition(".")
            if not info.isfile() or info.size > MAX_MEMBER_BYTES:
                continue
            if ending == "npz":
                found[key] = number, info.offset_data, info.size
            elif ending == "json" and info.size < 1 << 16:
                with contextlib.suppress(ValueError, AttributeError):
                    uids[key] = str(parse_json(tar.extractfile(info).read()).get("uid") or "")
    for key, member in found.items():
        yield key, member
        yield key.rpartition("/")[2], member
        if uids.get(key):
            yield uids[key], member


def _floats(values: np.ndarray) -> np.ndarray:
    """float32 [n, d]; numpy has no name for bfloat16 and stores two bytes."""
    if values.dtype.kind == "V":
        values = values.view(ml_dtypes.bfloat16)
    return np.atleast_2d(values.astype(np.float32))
