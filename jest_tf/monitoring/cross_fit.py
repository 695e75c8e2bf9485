"""Which captions go with which pictures, learned from the audited pairs themselves.

Ridge regressions lead from a picture's embedding to its caption's and back. Each pair is judged by
those that never saw it (one of FOLDS), so a wrong pair cannot vouch for itself; wrong pairs do not
agree with one another, so what is learned comes from the sound ones. No label is used: the strength
of the ridge is the one under which held-out pairs fit best. Where the reference alone fits them
better, nothing is learned.

How much each of the two ways counts is learned too: a logistic regression tells the audited pairs
from pairs that are put together by chance (as Percolator does, Käll et al. 2007). A pair's rank is
the share of the latter that look at least as sound.
"""

import functools
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

FOLDS = 5
RIDGES = (1.0, 0.1, 0.01, 0.001)
WAVES = 768  # random Fourier features of an embedding (Rahimi and Recht 2007)
WORDS = 512  # places that words and groups of four letters are hashed to
RANKED = 1024  # pairs that each pair is ranked among
PROBED = 8192  # pairs that the strength and the weights of the ways are chosen on, about
CHANCE = 4  # pairs put together by chance for each of these

Pairs = tuple[np.ndarray, np.ndarray, Sequence[str], np.ndarray]  # zimg, ztxt, captions, folds


def folds(content_hash: np.ndarray, caption_hash: np.ndarray) -> np.ndarray:
    """int64 [n]: repetitions of a pair fall into one fold."""
    return (content_hash ^ caption_hash) % FOLDS


def rank_among(query: np.ndarray, own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float32 [n]: share of `others` [k, d] that fit `query` [n, d] better than `own` [n, d]."""
    fit = np.sum(query * own, axis=1)[:, None] + 1e-5
    return np.mean(query @ others.T > fit, axis=1, dtype=np.float32)


def pair_rank(zimg: np.ndarray, ztxt: np.ndarray, others: tuple) -> np.ndarray:
    """`jest_tf.selection.pair_rank` of n pairs among other pairs (zimg, ztxt), float32 [n]."""
    return (rank_among(zimg, ztxt, others[1]) + rank_among(ztxt, zimg, others[0])) / 2


class CrossFit:
    """The regressions; `arrays` is all that they are."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays

    @classmethod
    def of(cls, zimg: np.ndarray, ztxt: np.ndarray, blocks: Iterable[Pairs]) -> "CrossFit":
        """Learns from blocks of pairs, read once. zimg, ztxt [k, d]: pairs to be ranked among,
        whose covariance both spaces are whitened by."""
        arrays = {}
        for side, z in enumerate((zimg, ztxt)):
            mean = z.mean(0)
            values, vectors = np.linalg.eigh(np.cov((z - mean).T) + 1e-9 * np.eye(z.shape[1]))
            arrays[f"mean{side}"] = mean
            arrays[f"whiten{side}"] = (vectors / np.sqrt(values + 0.1 * values.mean())).astype("f4")
        self = cls(arrays)
        others = zimg[:RANKED], ztxt[:RANKED]
        arrays |= {f"others{side}": self.white(side, z) for side, z in enumerate(others)}
        sums, probe = self._sums(blocks)
        if not sums or not len(probe[0]):
            return cls({})
        unseen = [part[probe[3] == 0] for part in probe]
        best, ridge = float(np.mean(pair_rank(*unseen[:2], others))), None
        for tried in RIDGES:
            self._solve(sums, tried, range(1))
            if (found := float(np.mean(self._ranks(*unseen)))) < best:
                best, ridge = found, tried
        if ridge is None:
            return cls({})
        self._solve(sums, ridge, range(FOLDS))
        own = self._evidence(*probe)
        chance = [self._evidence(*_by_chance(*probe, shift)) for shift in range(1, CHANCE + 1)]
        chance = np.concatenate(chance)
        arrays["ways"] = told_apart(own, chance)
        arrays["chance"] = np.sort(chance @ arrays["ways"])
        return self

    def _solve(self, sums: Sequence, ridge: float, wanted: range) -> None:
        """The regressions that see all folds but f, for each f of `wanted`."""
        for side, (gram, cross) in enumerate(sums):
            width = gram.shape[1]
            strength = ridge * np.trace(gram.sum(0)) / width * np.eye(width, dtype=np.float32)
            self.arrays[f"weights{side}"] = np.stack(
                [
                    np.linalg.solve(gram.sum(0) - gram[f] + strength, cross.sum(0) - cross[f])
                    for f in wanted
                ]
            )

    def __bool__(self) -> bool:
        """False where nothing was learned that fits held-out pairs better than the reference."""
        return "weights0" in self.arrays

    def rank(self, zimg, ztxt, captions: Sequence[str], fold: np.ndarray) -> np.ndarray:
        """float32 [n]: share of pairs by chance that look as sound as each pair, or more so.

        zimg, ztxt float32 [n, d]; fold int [n], of `folds`.
        """
        sound, chance = self._evidence(zimg, ztxt, captions, fold), self.arrays["chance"]
        below = np.searchsorted(chance, sound @ self.arrays["ways"])
        return (1 - below / len(chance)).astype(np.float32)

    def _evidence(self, *pairs) -> np.ndarray:
        """float64 [n, 2]: higher where a pair looks sound, one way and the other."""
        return -np.log(self._ranks(*pairs).astype(float) + 1 / RANKED).T

    def _ranks(self, zimg, ztxt, captions: Sequence[str], fold: np.ndarray) -> np.ndarray:
        """float32 [2, n]: share of other captions, and of other pictures, that fit better; each
        pair by the regressions without its fold."""
        white, ranks = (self.white(0, zimg), self.white(1, ztxt)), []
        for side, z in enumerate((zimg, ztxt)):
            features = features_of(side, z, white[side], captions)
            guess = np.empty_like(white[0])
            for f in np.unique(fold):
                guess[fold == f] = features[fold == f] @ self.arrays[f"weights{side}"][f]
            other = 1 - side
            ranks.append(rank_among(_unit(guess), white[other], self.arrays[f"others{other}"]))
        return np.stack(ranks)

    def white(self, side: int, z: np.ndarray) -> np.ndarray:
        return _unit((z - self.arrays[f"mean{side}"]) @ self.arrays[f"whiten{side}"])

    def _sums(self, blocks: Iterable[Pairs]) -> tuple[list, list]:
        """For each side and fold, the sums that a regression is solved from; some of the pairs."""
        sums, probes, n_probed = [], [], 0
        for zimg, ztxt, captions, fold in blocks:
            white = self.white(0, zimg), self.white(1, ztxt)
            for side, z in enumerate((zimg, ztxt)):
                features = features_of(side, z, white[side], captions)
                if len(sums) <= side:
                    width, d = features.shape[1], z.shape[1]
                    shapes = [FOLDS, width, width], [FOLDS, width, d]
                    sums.append([np.zeros(shape, np.float32) for shape in shapes])
                for f in range(FOLDS):
                    x = features[fold == f]
                    sums[side][0][f] += x.T @ x
                    sums[side][1][f] += x.T @ white[1 - side][fold == f]
            if n_probed < PROBED:
                rows = slice(PROBED - n_probed)
                probes.append([z[rows] for z in (zimg, ztxt, np.array(captions, object), fold)])
                n_probed += len(probes[-1][0])
        return sums, [np.concatenate(parts) for parts in zip(*probes, strict=True)]


def _by_chance(zimg, ztxt, captions: np.ndarray, fold: np.ndarray, shift: int) -> Pairs:
    """Each picture with the caption of another pair of its fold, which its regressions never saw
    either."""
    rng, other = np.random.default_rng(0), np.empty(len(fold), int)
    for f in np.unique(fold):
        rows = rng.permutation(np.flatnonzero(fold == f))
        other[rows] = np.roll(rows, shift)
    return zimg, ztxt[other], captions[other], fold


def told_apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float64 [k]: weights of a logistic regression that tells rows [n, k] of `one` by high sums.

    Newton's method, with a slight ridge on the weights; the constant is left out.
    """
    x = np.pad(np.concatenate([one, other]), [(0, 0), (0, 1)], constant_values=1.0)
    y = np.repeat([1.0, 0.0], [len(one), len(other)])
    weights, ridge = np.zeros(x.shape[1]), np.append(np.ones(x.shape[1] - 1), 0)
    for _ in range(20):
        p = 1 / (1 + np.exp(-x @ weights))
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge)
        weights += np.linalg.solve(curvature, x.T @ (y - p) - ridge * weights)
    return weights[:-1]


def _unit(z: np.ndarray) -> np.ndarray:
    return (z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def features_of(side: int, z: np.ndarray, white: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """float32 [n, f]: what a picture (side 0) or a caption (1) is predicted from."""
    waves, phases = _waves(side, z.shape[1])
    parts = [0.3 * white, np.sqrt(2 / WAVES) * np.cos(z @ waves + phases)]
    if side == 1:
        parts.append(np.reshape([_words(text) for text in captions], [-1, WORDS]))
    return np.concatenate(parts, axis=1).astype(np.float32)


@functools.cache
def _waves(side: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [d, WAVES] and [WAVES], the same in every process."""
    rng = np.random.default_rng(side)
    waves = rng.normal(size=[d, WAVES]).astype(np.float32)
    return waves, (2 * np.pi * rng.random(WAVES)).astype(np.float32)


def _words(text: str) -> np.ndarray:
    """float32 [WORDS]: its words and groups of four letters, hashed with a sign."""
    text = f" {text.lower()} "
    pieces = text.split() + [text[i : i + 4] for i in range(len(text) - 3)]
    hashes = np.array([zlib.crc32(piece.encode()) for piece in pieces], np.int64)
    signs = 1.0 - 2 * (hashes // WORDS % 2)
    counts = np.bincount(hashes % WORDS, signs, WORDS)
    return (counts / np.sqrt(max(1, len(pieces)))).astype(np.float32)
