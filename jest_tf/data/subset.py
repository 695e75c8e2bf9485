"""A part of a data set, written for our own training and for other trainers."""

import dataclasses
import hashlib
import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from jest_tf.data import in_place
from jest_tf.data.fields import hash64
from jest_tf.data.formats import tar
from jest_tf.data.formats.files import find, open_binary
from jest_tf.data.manifest import Manifest
from jest_tf.errors import UserError
from jest_tf.files import replacing, write_atomically
from jest_tf.progress import Counter

RECORDS_PER_SHARD = 1000
_UID = re.compile(r"(?:.*[/:])?([0-9a-f]{32})")


def write_manifest(manifest: Manifest, kept: np.ndarray, out: str, name: str) -> str:
    """Copies the kept records, as they are, into new shards with a manifest; rerun to go on.

    kept: bool [n_records], in manifest order. Returns the path of the manifest.
    """
    chosen = json.dumps([manifest.fingerprint, hashlib.sha256(kept.tobytes()).hexdigest()])
    claim = f"{out}/subset.json"
    require_own(out)
    if not tf.io.gfile.exists(claim) or tf.io.gfile.GFile(claim).read() != chosen:
        for old in tf.io.gfile.glob(f"{out}/shard-*.tfrecord"):
            tf.io.gfile.remove(old)
        tf.io.gfile.makedirs(out)
        write_atomically(claim, chosen)
    firsts = manifest.firsts
    parts = [kept[a:b] for a, b in zip(firsts, firsts[1:], strict=False)]
    shards, units = [], _units(manifest, parts)
    for number, unit in enumerate(Counter("subset", len(units), "shards").over(units)):
        path = f"{out}/shard-{number:06d}.tfrecord"
        if not tf.io.gfile.exists(path):
            with replacing(path) as aside, tf.io.TFRecordWriter(aside) as writer:
                for index in unit:
                    file = in_place.records(manifest.shards[index], pictures=False)
                    for serialized in itertools.compress(file.as_numpy_iterator(), parts[index]):
                        writer.write(serialized)
        known = {"path": os.path.abspath(path), "bytes": tf.io.gfile.stat(path).length}
        n = int(sum(parts[index].sum() for index in unit))
        first = manifest.shards[unit[0]]
        shards.append(dataclasses.replace(first, **known, records=n, start=0))
    path = f"{out}/manifest.json"
    manifest.with_shards(shards, name).save(path)
    return path


def require_own(out: str) -> None:
    """UserError: a data set that is no subset lies in `out`, and would be removed."""
    if tf.io.gfile.exists(f"{out}/subset.json"):
        return
    if others := tf.io.gfile.glob([f"{out}/shard-*.tfrecord", f"{out}/manifest.json"]):
        raise UserError(
            f"--out={out} holds {os.path.basename(others[0])} of another data set. Name an empty "
            "folder."
        )


def _units(manifest: Manifest, parts: Sequence[np.ndarray]) -> list[list[int]]:
    """Shards of one source, and one tar, that follow one another and go into one new shard."""

    def origin(index: int) -> tuple[int, str]:
        return manifest.shards[index].source, manifest.shards[index].tar

    units, n = [], RECORDS_PER_SHARD
    for index, part in enumerate(parts):
        if not part.any():
            continue
        is_other = units and origin(units[-1][0]) != origin(index)
        if n >= RECORDS_PER_SHARD or is_other:
            units.append([])
            n = 0
        units[-1].append(index)
        n += int(part.sum())
    return units


def uids(keys: Iterable[str]) -> np.ndarray:
    """DataComp's list of a subset: sorted uids, two uint64 each; UserError: a key holds no uid."""
    array = np.fromiter(map(_uid, keys), np.dtype("u8,u8"))
    array.sort()
    return array


def _uid(key: str) -> tuple[int, int]:
    match = _UID.fullmatch(key)
    if not match:
        raise UserError(
            f"key {key!r} does not end in a uid of 32 hex digits, as DataComp's do. Leave "
            "uids.npy out of --write."
        )
    return int(match[1][:16], 16), int(match[1][16:], 16)


def require_tars(patterns: Sequence[str], keys: Iterable[str], out: str) -> None:
    """UserError: the patterns name no tar that one of the keys (TAR:KEY) begins with."""
    names = {name for name, _, _ in find(patterns, tar.ENDINGS, out).files}
    for key in keys:
        if any(key[: colon.start()] in names for colon in re.finditer(":", key)):
            return
    raise UserError(_not_there(patterns))


def _not_there(patterns: Sequence[str]) -> str:
    return (
        f"--tars={','.join(patterns)}: no record of the audit lies there. Give the tars that the "
        "data set was prepared from."
    )


def copy_tars(patterns: Sequence[str], keys: Iterable[str], out: str) -> int:
    """Copies the members of the kept records of webdataset tars; the tars keep their names.

    keys: as `prepare` names records, TAR:KEY. UserError: none of them is in one of the tars.
    """
    found = find(patterns, tar.ENDINGS, out)
    hashes = np.unique(np.fromiter(map(_hash, keys), np.int64))
    copied = set()
    for name, _, _ in found.files:
        path = f"{out}/{name.partition('.tar')[0]}.tar"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with (
            open_binary(found.path(name)) as file,
            tarfile.open(fileobj=file, mode="r|*") as source,
            replacing(path) as aside,
            tarfile.open(aside, "w") as target,
        ):
            for key, ending, member in tar.members(source):
                inner = key and [key, f"{key}.{ending.rpartition('.')[0]}"]
                kept = [h for k in inner or () if _is_in(h := _hash(f"{name}:{k}"), hashes)]
                if kept:
                    target.addfile(member, io.BytesIO(source.extractfile(member).read()))
                    copied.add(kept[0])
    if not copied:
        raise UserError(_not_there(patterns))
    return len(copied)


def _hash(key: str) -> int:
    return hash64(key.encode("utf-8", "surrogateescape"))


def _is_in(value: int, ordered: np.ndarray) -> bool:
    at = np.searchsorted(ordered, value)
    return at < len(ordered) and ordered[at] == value
