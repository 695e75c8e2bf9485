"""Slow truth for selection: float64 numpy, the dense S of the paper's text, no tricks.

A model is a dict {zimg, ztxt, scale, bias}, and captions [B] (any numbers) where rows of one
caption are no negatives of each other. Everything here is O(B²) and easy to check by eye.
"""

import numpy as np

# Candidates whose perturbed logits differ by less, relative to the largest, are a near-tie: float32
# rounds each operation by 2^-24, and a logit is a sum of up to 2b terms; their errors have random
# signs, so a sum of 2b = 4,096 has about 64 roundings.
NEAR_TIE = 64 * 2**-24
SIGNS = {"learnability": (1, -1), "hard_learner": (1, 0), "easy_reference": (0, -1)}
# Learnability with another weight of the learner, as SelectionSpec(learner_weight=0.5).
SIGNS["half_learnability"] = (0.5, -1)


def similarities(model: dict) -> np.ndarray:
    """z_ij = scale·<image i, text j> + bias, [B, B]."""
    zimg, ztxt = (np.asarray(model[side], np.float64) for side in ("zimg", "ztxt"))
    return float(model["scale"]) * zimg @ ztxt.T + float(model["bias"])


def negatives(model: dict) -> np.ndarray:
    """Whether j is a negative of i, bool [B, B]."""
    n = len(model["zimg"])
    captions = np.asarray(model.get("captions", np.arange(n)))
    return captions[:, None] != captions[None, :]


def softplus(z: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, z)


def sigmoid_nll(z: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """nll_ii = softplus(-z_ii), nll_ij = softplus(z_ij), or 0 where j is no negative of i."""
    pairs = np.where(negative, softplus(z), 0.0)
    return np.where(np.eye(len(z), dtype=bool), softplus(-z), pairs)


def logsumexp(z: np.ndarray, axis: int) -> np.ndarray:
    peak = z.max(axis, keepdims=True)
    return np.squeeze(peak, axis) + np.log(np.exp(z - peak).sum(axis))


def score_matrix(criterion: str, learner: dict, reference: dict) -> np.ndarray:
    """S of the sigmoid loss, [B, B]."""
    return sum(
        sign * sigmoid_nll(similarities(model), negatives(model))
        for sign, model in zip(SIGNS[criterion], (learner, reference), strict=True)
        if sign
    )


def logits_given(loss: str, criterion: str, learner: dict, reference: dict):
    """A function: picked set P -> logits of every candidate, before temperature and draw, [B]."""
    if loss == "sigmoid":
        s = score_matrix(criterion, learner, reference)
        return lambda picked: np.diag(s) + s[list(picked)].sum(0) + s[:, list(picked)].sum(1)

    signed = [
        (sign, similarities(model), negatives(model))
        for sign, model in zip(SIGNS[criterion], (learner, reference), strict=True)
        if sign
    ]

    def nll(z, negative, picked):
        own = np.diag(z)[:, None]
        if not picked:
            return -own[:, 0]
        others = negative[:, picked]  # P + i counts i once, as itself.
        rows = np.where(others, z[:, picked], -np.inf)
        columns = np.where(others, z[picked].T, -np.inf)
        lse = [logsumexp(np.concatenate([side, own], 1), 1) for side in (rows, columns)]
        return 0.5 * (lse[0] + lse[1]) - own[:, 0]

    return lambda picked: sum(sign * nll(*model, list(picked)) for sign, *model in signed)


def candidate_logits(
    loss: str, criterion: str, learner: dict, reference: dict, picked
) -> np.ndarray:
    """Logits of every candidate given the picked set P, before temperature and draw, [B]."""
    return logits_given(loss, criterion, learner, reference)(picked)


def joint_picks(
    loss: str,
    criterion: str,
    learner: dict,
    reference: dict,
    gumbel: np.ndarray,
    chunk_size: int,
    valid: np.ndarray | None = None,
    temperature: float = 1.0,
) -> np.ndarray:
    """The paper's listing: positions [n_chunks, chunk_size], best first, ties to the lower."""
    allowed = np.ones(gumbel.shape[1], bool) if valid is None else valid.copy()
    chunks: list[np.ndarray] = []
    logits = logits_given(loss, criterion, learner, reference)
    for draw in gumbel:
        picked = np.concatenate(chunks) if chunks else []
        perturbed = np.where(allowed, logits(picked) / temperature + draw, -np.inf)
        chunks.append(np.argsort(-perturbed, kind="stable")[:chunk_size])
        allowed[chunks[-1]] = False
    return np.stack(chunks)


def cut_violation(
    loss: str,
    criterion: str,
    learner: dict,
    reference: dict,
    gumbel: np.ndarray,
    chunks: np.ndarray,
    temperature: float = 1.0,
) -> float:
    """How wrong the given picks are, at worst, in units of the perturbed logit; 0 is exact.

    For each chunk, given the EARLIER chunks as they were picked: the best candidate that was left
    out, minus the worst that was taken.
    """
    worst, allowed = 0.0, np.ones(gumbel.shape[1], bool)
    logits = logits_given(loss, criterion, learner, reference)
    for c, draw in enumerate(gumbel):
        perturbed = logits(chunks[:c].ravel()) / temperature + draw
        taken = np.zeros_like(allowed)
        taken[chunks[c]] = True
        assert allowed[taken].all() and taken.sum() == chunks.shape[1], "picked twice"
        left = perturbed[allowed & ~taken]
        if len(left):
            worst = max(worst, left.max() - perturbed[taken].min())
        allowed &= ~taken
    return worst


def set_score(loss: str, criterion: str, learner: dict, reference: dict, members) -> float:
    """ℓ(Q) of the set Q: the contrastive loss of Q as a batch, learner and reference signed."""
    members = list(members)
    total = 0.0
    for sign, model in zip(SIGNS[criterion], (learner, reference), strict=True):
        z, negative = (x(model)[np.ix_(members, members)] for x in (similarities, negatives))
        if loss == "sigmoid":
            nll = sigmoid_nll(z, negative).sum(1)
        else:
            counted = np.where(negative | np.eye(len(z), dtype=bool), z, -np.inf)
            nll = 0.5 * (logsumexp(counted, 1) + logsumexp(counted, 0)) - np.diag(z)
        total += sign * nll.mean()
    return total


def random_model(rng: np.random.Generator, n: int, d: int, scale: float, bias: float, **kwargs):
    """A model that has learned something: texts near their images; optional near-duplicates."""
    zimg = rng.normal(size=(n, d))
    if kwargs.get("duplicates"):
        zimg[n // 2 :] = zimg[: n - n // 2] + 1e-3 * rng.normal(size=(n - n // 2, d))
    ztxt = zimg + kwargs.get("noise", 1.0) * rng.normal(size=(n, d))
    zimg, ztxt = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (zimg, ztxt))
    as_float = {"zimg": zimg, "ztxt": ztxt, "scale": scale, "bias": bias}
    return {name: np.asarray(value, np.float32) for name, value in as_float.items()}
