"""Groups of records whose pictures look alike, by their embeddings; memory is bounded.

k-means cells are found on a sample (SemDeDup, Abbas et al. 2023). Each record goes to its nearest
cell on disk, and pairs are compared inside a cell only: near duplicates at the border of two cells
can be missed. Needs faiss (`pip install 'jest_tf[dedup]'`).
"""

import pathlib
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np

from jest_tf.errors import UserError

PER_CELL = 2000  # records that a cell is to have on average
SAMPLE = 256  # records a cell that the cells are found on, at most
SAMPLES = 1 << 18  # records that they are found on in all, at most
BLOCK = 1024  # records that are compared with their cell at a time


def groups(blocks: Iterable[np.ndarray], known: np.ndarray, cosine: float) -> np.ndarray:
    """int64 [n]: the first record of each record's group.

    Args:
      blocks: gives float32 [k, d] of unit norm, n rows in all, each time it is iterated; rows of
        zeros are near to none.
      known: int64 [n], groups that are known already, in the same form.
      cosine: from which two records are of one group; groups are closed under this.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "--dedup needs faiss, which is not installed: pip install 'jest_tf[dedup]'"
        ) from error
    parent = known.copy()
    with tempfile.TemporaryDirectory() as folder:
        for records, z in _cells(faiss, blocks, len(known), pathlib.Path(folder)):
            index = faiss.IndexFlatIP(z.shape[1])
            index.add(z)
            for start in range(0, len(z), BLOCK):
                limits, _, found = index.range_search(z[start : start + BLOCK], cosine)
                owner = (
                    np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(np.int64))) + start
                )
                for a, b in zip(records[owner], records[found], strict=True):
                    if a != b:
                        _join(parent, int(a), int(b))
    while (parent[parent] != parent).any():
        parent = parent[parent]
    return parent


def _cells(
    faiss, blocks: Iterable[np.ndarray], n: int, folder: pathlib.Path
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(record numbers, embeddings) of each cell."""
    n_cells = max(1, min(n // PER_CELL, SAMPLES // 40))  # k-means wants 40 of each
    stride = max(1, -(-n // min(n_cells * SAMPLE, SAMPLES)))
    first, sample = 0, []
    for z in blocks:
        rows = np.arange(-first % stride, len(z), stride)
        sample.append(z[rows][z[rows].any(1)])
        first += len(z)
    sample = np.concatenate(sample)
    if not len(sample):
        return
    means = faiss.Kmeans(sample.shape[1], n_cells, niter=10, seed=0, spherical=True)
    means.cp.min_points_per_centroid = 1
    means.train(sample)
    first = 0
    for z in blocks:
        _, cell = means.index.search(z, 1)
        cell = np.where(z.any(1), cell[:, 0], -1)
        for c in np.unique(cell[cell >= 0]):
            rows = np.flatnonzero(cell == c)
            with open(folder / f"{c}.records", "ab") as file:
                file.write((rows + first).astype(np.int64).tobytes())
            with open(folder / f"{c}.z", "ab") as file:
                file.write(np.ascontiguousarray(z[rows], np.float32).tobytes())
        first += len(z)
    for path in sorted(folder.glob("*.records"), key=lambda p: int(p.stem)):
        z = np.fromfile(path.with_suffix(".z"), np.float32).reshape(-1, sample.shape[1])
        yield np.fromfile(path, np.int64), z


def _root(parent: np.ndarray, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return int(i)


def _join(parent: np.ndarray, a: int, b: int) -> None:
    a, b = sorted((_root(parent, a), _root(parent, b)))
    parent[b] = a
