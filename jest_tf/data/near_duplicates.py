"""Groups of records whose pictures look alike, by their embeddings; memory is bounded.

k-means cells are found on a sample (SemDeDup, Abbas et al. 2023). Each record goes to its nearest
cell on disk, and pairs are compared inside a cell only: near duplicates at the border of two cells
can be missed. Needs faiss (`pip install 'jest_tf[dedup]'`).

Both stages are units of work: a shard's records go to cells, then the records of a range of cells
are compared. Their files lie in one folder, so that threads, Beam and a rerun share the work.
"""

import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from jest_tf.data import units
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.errors import explaining
from jest_tf.files import claimed_folder, replacing
from jest_tf.progress import Counter

VERSION = 1
PER_CELL = 2000  # records that a cell is to have on average
PER_UNIT = 32  # cells that a unit compares, one after the other
SAMPLE = 256  # records a cell that the cells are found on, at most
SAMPLES = 1 << 18  # records that they are found on in all, at most
BLOCK = 1024  # records that are compared with their cell at a time
OPENER = "jest_tf.data.near_duplicates:open_units"
_FOUND = np.dtype([("record", "<i8"), ("first", "<i8")])


class Search:
    """The work in a folder, on so many `records` of each shard.

    read: float32 [k, d] of unit norm of a shard; rows of zeros are near to none. cosine: from which
    two records are of one group; groups are closed under this.
    """

    def __init__(
        self,
        folder: str,
        records: Sequence[int],
        read: Callable[[int], np.ndarray],
        cosine: float,
    ):
        need = "--dedup needs faiss, which is not installed: pip install 'jest_tf[dedup]'"
        with explaining(ImportError, need):
            import faiss
        self._faiss, self._folder, self._read, self._cosine = faiss, folder, read, cosine
        self._firsts = np.append(0, np.cumsum(records))
        n = int(self._firsts[-1])
        self._n_cells = max(1, min(n // PER_CELL, SAMPLES // 40))  # k-means wants 40 of each
        # What each stage leaves to do: its units are numbered from 0.
        self.stages = {"assign": len(records), "compare": -(-self._n_cells // PER_UNIT)}

    def path(self, stage: str, index: int, what: str) -> str:
        return f"{self._folder}/{stage}-{index:06d}.{what}.npy"

    def left(self, stage: str) -> list[int]:
        n = self.stages[stage]
        return [i for i in range(n) if not os.path.exists(self.path(stage, i, "done"))]

    def do(self, stage: str, todo: Sequence[int]) -> None:
        with Counter(f"near duplicates, {stage}", len(todo), "units") as counter:
            for unit in counter.over(todo):
                getattr(self, stage)(unit)

    def find_cells(self) -> None:
        """k-means on a sample; what is there stays."""
        if os.path.exists(f"{self._folder}/means.npy"):
            return
        n = self._firsts[-1]
        stride = max(1, -(-n // min(self._n_cells * SAMPLE, SAMPLES)))
        sample = []
        for shard, first in enumerate(self._firsts[:-1]):
            z = self._read(shard)[-first % stride :: stride]
            sample.append(z[z.any(1)])
        means = sample = np.concatenate(sample)
        if len(sample):
            n_cells = min(self._n_cells, len(sample))
            found = self._faiss.Kmeans(sample.shape[1], n_cells, niter=10, seed=0, spherical=True)
            found.cp.min_points_per_centroid = 1
            found.train(sample)
            means = found.centroids
        _save(f"{self._folder}/means.npy", means)

    @functools.cached_property
    def _means(self):
        means = np.load(f"{self._folder}/means.npy", allow_pickle=False)
        index = self._faiss.IndexFlatIP(means.shape[1])
        index.add(means)
        return index

    def assign(self, shard: int) -> None:
        """Writes a shard's embeddings in the order of their cells."""
        z = self._read(shard)
        rows = np.flatnonzero(z.any(1))
        # Where no record of the sample is left, one cell holds the few others.
        cell = self._means.search(z[rows], 1)[1][:, 0] if self._means.ntotal else 0 * rows
        order = np.argsort(cell, kind="stable")
        _save(self.path("assign", shard, "z"), z[rows[order]])
        _save(self.path("assign", shard, "done"), np.stack([cell[order], rows[order]]))

    def compare(self, unit: int) -> None:
        """Writes the records of some cells that are near to an earlier one, each with the first of
        its group."""
        parts, records, cells = [], [], []
        for shard, first in enumerate(self._firsts[:-1]):
            cell, rows = np.load(self.path("assign", shard, "done"), allow_pickle=False)
            begin, end = np.searchsorted(cell, [unit * PER_UNIT, (unit + 1) * PER_UNIT])
            if begin < end:
                z = np.load(self.path("assign", shard, "z"), mmap_mode="r", allow_pickle=False)
                parts.append(z[begin:end])
                records.append(rows[begin:end] + first)
                cells.append(cell[begin:end])
        found = []
        if parts:
            z, records, cells = map(np.concatenate, (parts, records, cells))
            for cell in np.unique(cells):
                here = np.flatnonzero(cells == cell)
                first = self._firsts_of(z[here])
                near = np.flatnonzero(first != np.arange(len(here)))
                found += zip(records[here[near]], records[here[first[near]]], strict=True)
        _save(self.path("compare", unit, "done"), np.array(found, _FOUND))

    def _firsts_of(self, z: np.ndarray) -> np.ndarray:
        """int [n]: the first of each one's group, of all pairs of one cell."""
        index = self._faiss.IndexFlatIP(z.shape[1])
        index.add(z)
        parent = np.arange(len(z))
        for start in range(0, len(z), BLOCK):
            limits, _, near = index.range_search(z[start : start + BLOCK], self._cosine)
            counts = np.diff(limits.astype(np.int64))
            owner = np.repeat(np.arange(len(counts)), counts) + start
            later = near > owner
            for a, b in zip(owner[later].tolist(), near[later].tolist(), strict=True):
                _join(parent, a, b)
        return _flat(parent)

    def groups(self, known: np.ndarray) -> np.ndarray:
        """int64 [n]: the first record of each record's group, when all units are done.

        known: int64 [n], groups that are known already, in the same form.
        """
        parent = known.copy()
        for unit in range(self.stages["compare"]):
            found = np.load(self.path("compare", unit, "done"), allow_pickle=False)
            for record, first in found.tolist():
                _join(parent, record, first)
        return _flat(parent)


def groups(
    cache: ReferenceCache,
    kept: np.ndarray,
    known: np.ndarray,
    cosine: float,
    folder: str,
    beam: units.Beam | None = None,
) -> np.ndarray:
    """`Search.groups` of the pictures of the kept records (bool [n]); `folder` goes afterwards."""
    identity = {"version": VERSION, "data": cache.data, "of": cache.identity, "cosine": cosine}
    identity["kept"] = hashlib.sha256(kept.tobytes()).hexdigest()
    claimed_folder(folder, identity)
    _save(f"{folder}/kept.npy", kept)
    given = {"folder": folder, "cache": cache.folder, "cosine": cosine}
    search = _search(**given)
    search.find_cells()
    for stage in search.stages:
        left, here = functools.partial(search.left, stage), functools.partial(search.do, stage)
        units.run(beam, OPENER, given | {"stage": stage}, left, here)
    found = search.groups(known)
    shutil.rmtree(folder)
    return found


def open_units(stage: str, **given) -> Callable[[int], None]:
    """For `units.run`."""
    return getattr(_search(**given), stage)


def _search(folder: str, cache: str, cosine: float) -> Search:
    of_pictures = ReferenceCache.load(cache)
    kept = np.load(f"{folder}/kept.npy", mmap_mode="r", allow_pickle=False)
    firsts = np.append(0, np.cumsum(of_pictures.records))

    def read(shard: int) -> np.ndarray:
        zimg, _ = of_pictures.embeddings(shard, np.zeros(of_pictures.records[shard], np.int64))
        zimg = tf.math.l2_normalize(zimg, axis=1).numpy()
        return zimg * kept[firsts[shard] : firsts[shard + 1], None]

    return Search(folder, of_pictures.records, read, cosine)


def _save(path: str, array: np.ndarray) -> None:
    with replacing(path) as aside, open(aside, "wb") as file:
        np.save(file, array)


def _root(parent: np.ndarray, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return int(i)


def _join(parent: np.ndarray, a: int, b: int) -> None:
    a, b = sorted((_root(parent, a), _root(parent, b)))
    parent[b] = a


def _flat(parent: np.ndarray) -> np.ndarray:
    while (parent[parent] != parent).any():
        parent = parent[parent]
    return parent
