"""Joint against independent selection from stored embeddings, against S written out."""

import types

import numpy as np
import pytest

from benchmarks import bq
from benchmarks.evidence import mates_page


def softplus(x):
    return np.logaddexp(0, x)


def test_scores_and_mates_by_hand():
    rng = np.random.default_rng(0)
    b, filter_ratio, weight = 16, 2, 0.5
    n = b * filter_ratio
    models = []
    for scale, bias in ((10.0, -3.0), (8.0, -2.0)):
        zimg, ztxt = rng.normal(size=[2, n, 4]).astype(np.float32)
        zimg, ztxt = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (zimg, ztxt))
        models.append((zimg, ztxt, np.float32(scale), np.float32(bias)))
    codes = np.arange(n, dtype=np.int64)
    codes[1] = codes[0]
    options = types.SimpleNamespace(
        filter=filter_ratio, draws=1, learner_weight=weight, same_caption="ignore"
    )
    found = bq.measure(lambda rng, n: np.arange(n), models, codes, b, options)

    is_negative = codes[:, None] != codes[None]
    nll = []
    for zimg, ztxt, scale, bias in models:
        z = scale * zimg @ ztxt.T + bias
        nll.append(np.where(np.eye(n, dtype=bool), softplus(-z), is_negative * softplus(z)))
    s = weight * nll[0] - nll[1]
    best = np.argsort(-np.diag(s))[:b]
    expected = s[np.ix_(best, best)].sum() / b
    assert found["greedy_independent"] == pytest.approx(expected, rel=1e-4)
    assert found["greedy_gain"] == pytest.approx(found["greedy_joint"] - expected, abs=1e-4)
    assert found["bq_caption"] == pytest.approx(b * 2 / (n * (n - 1)))
    matches = sum(
        models[1][2] * models[1][0][i] @ models[1][1][j] + models[1][3] > 0
        for i in range(n) for j in range(n) if i != j
    )  # fmt: skip
    assert found["bq_match"] == pytest.approx(b * matches / (n * (n - 1)))


def test_rows_of_few_families_and_of_clusters():
    words = ["cat"] * 60 + ["dog"] * 40 + [f"w{i}" for i in range(300)]
    captions = [f"{word} {i}".encode() for i, word in enumerate(words)]
    rng = np.random.default_rng(0)
    rows = bq.families(None, captions)(rng, 50)
    assert {words[row] for row in rows} == {"cat"}
    ztxt = np.repeat(np.eye(4, dtype=np.float32), 100, axis=0)
    taken = bq.clustered(ztxt, captions)(rng, 80)
    assert len(set(taken.tolist())) == 80


def test_predictions_are_judged_beyond_two_errors():
    def line(rows, gain, **more):
        fields = {"name": "emoji pool", "rows": rows, "learner": "base", "filter": 5, "b": 256}
        fields |= {"same_caption": "ignore", "greedy_gain": gain, "greedy_gain_se": 0.1}
        return fields | {"bq_match": 0.1, "bq_caption": 0.2} | more

    (text,) = mates_page.predictions([line("families", 2.0), line("all", 0.5)])
    assert "P1" in text and "confirmed" in text and "2.00 ± 0.10" in text
    (text,) = mates_page.predictions([line("families", 0.6), line("all", 0.5)])
    assert "undecided" in text
    both = [line("families", 2.0), line("all", 0.5)]
    (text,) = mates_page.predictions([*both, line("clustered", 1.0)])
    assert "undecided" in text, "clusters have more mates and gain less"
    assert "| emoji pool, families, learner: base | 0.2 / 0.1 | - | 2.00 | - | - |" in (
        mates_page.table_of(both)
    )
