"""How well `jest audit` finds wrong pairs, beside CLIPScore and confident learning (cleanlab).

    python -m benchmarks.audit_noise --audit=audit.parquet --labels=data/pool/noise.jsonl
    python -m benchmarks.audit_noise --audit=audit.parquet --emoji

The audit needs `--reference`. CLIPScore and cleanlab judge as many pairs wrong as the audit does,
by embeddings of the same reference. For cleanlab, captions are classes: k-means of their
embeddings; a logistic regression on pictures' embeddings, cross-validated, gives probabilities.
`its own number` are the pairs that confident learning itself finds. Duplicates and pairs that were
not seen are left out. Of several audits, or of --parts of one, means are told.
"""

import datetime
import json
import platform

import numpy as np
import pyarrow.parquet as pq

from jest_tf import cli, config_flag
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.errors import UserError
from jest_tf.monitoring.audit import first_caption
from jest_tf.monitoring.labels import UNLABELLED, Labels, read_labels

FLAGS, _flag = cli.own_flags()
_AUDIT = _flag("list", "audit", [], "Tables of `jest audit`, e.g. one a seed of the reference.")
_LABELS = _flag("list", "labels", [], "Files of noise labels.")
_EMOJI = _flag("bool", "emoji", False, "The labels of the emoji pool.")
_CLEANLAB = _flag("bool", "cleanlab", True, "Run cleanlab too.")
_PARTS = _flag("integer", "parts", 1, "Count in so many parts that share no pair.", lower_bound=1)
_SAMPLE = _flag("integer", "sample", 0, "Count in so many pairs, drawn at random; 0: in all.")
_DATA = _flag("string", "data", None, "The audited set, for cleanlab.")
_DATA_DIR = _flag("string", "data_dir", None, "Where TFDS keeps its sets.")
_OUT = _flag("string", "out", None, "Append the result to this file.")
CLASSES = 100


def scores(flagged: np.ndarray, noisy: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 of a bool [n] against another."""
    hits = float(np.sum(flagged & noisy))
    precision, recall = hits / max(1, flagged.sum()), hits / max(1, noisy.sum())
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    return {"precision": precision, "recall": recall, "f1": f1}


def lowest(values: np.ndarray, n: int) -> np.ndarray:
    """bool: the n lowest values."""
    flagged = np.zeros(len(values), bool)
    flagged[np.argsort(values, kind="stable")[:n]] = True
    return flagged


def compare(
    methods: dict[str, np.ndarray], labels: Labels, ids: np.ndarray
) -> list[dict[str, float | str]]:
    """A row for each method: scores, the share of each kind that it flags, and for each kind of
    noise its precision, as if the set held that kind and sound pairs alone."""
    kinds = np.array(labels.names)[labels.codes(ids)]
    noisy = np.isin(kinds, list(labels.noisy))
    rows = []
    for name, flagged in methods.items():
        row = {"method": name, "flagged": int(flagged.sum())} | scores(flagged, noisy)
        row |= {k: float(flagged[kinds == k].mean()) for k in np.unique(kinds)}
        for kind in np.unique(kinds[noisy]):
            judged = flagged & ((kinds == kind) | ~noisy)
            row[f"precision, {kind}"] = float(np.sum(judged & noisy) / max(1, judged.sum()))
        rows.append(row)
    return rows


def confident_learning(zimg: np.ndarray, ztxt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(cleanlab's label quality of each pair, float [n]; the issues that it finds, bool [n])."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    means = MiniBatchKMeans(min(CLASSES, len(ztxt) // 20), random_state=0, n_init=3)
    _, classes = np.unique(means.fit_predict(ztxt), return_inverse=True)
    model = LogisticRegression(max_iter=200)
    probabilities = cross_val_predict(model, zimg, classes, cv=5, method="predict_proba")
    issues = find_label_issues(classes, probabilities, filter_by="confident_learning", n_jobs=1)
    return get_label_quality_scores(classes, probabilities), issues


def main(argv: list[str]) -> None:
    """Prints the table."""
    config_flag.refuse_extra(argv)
    if _EMOJI.value:
        from examples.emoji import builder as emoji

        labels = Labels(emoji.noise_by_id(), emoji.NOISY)
    else:
        labels = read_labels(_LABELS.value)
    data = (_DATA.value, _DATA_DIR.value) if _CLEANLAB.value else None
    runs = [
        rows
        for path in _AUDIT.value
        for rows in judged(path, labels, data, _PARTS.value, _SAMPLE.value)
    ]
    rows = summary(runs)
    names = list(rows[0])
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        told = [f"{v:.3f}" if isinstance(v, float) else f"{v}" for v in row.values()]
        print(f"| {' | '.join(told)} |")
    if _OUT.value:
        day, machine = datetime.date.today().isoformat(), platform.processor()
        with open(_OUT.value, "a", encoding="utf-8") as file:
            kept = {"date": day, "machine": machine, "audits": len(runs), "rows": rows}
            file.write(json.dumps(kept) + "\n")


def judged(
    path: str,
    labels: Labels,
    data: tuple[str, str | None] | None = None,
    n_parts: int = 1,
    sample: int = 0,
) -> list[list[dict]]:
    """A row for each method, for each part of one audit.

    data: (audited set, where TFDS keeps its sets), to run cleanlab too. sample: count in so many
    pairs, drawn at random; 0: in all.
    """
    table = pq.read_table(path)
    if "reference_score" not in table.column_names:
        raise UserError(f"{path} has no reference_score: audit with --reference.")
    ids, verdict = table["id"].to_numpy(), np.array(table["verdict"].to_pylist())
    used = np.isin(verdict, ["wrong pair", "useful", "learned"])
    used &= labels.codes(ids) != labels.names.index(UNLABELLED)
    if sample:
        used[np.random.default_rng(0).permutation(np.flatnonzero(used))[sample:]] = False
    flagged = verdict[used] == "wrong pair"
    methods, n = {"audit": flagged}, int(flagged.sum())
    methods["CLIPScore"] = lowest(table["reference_score"].to_numpy()[used], n)
    if data:
        quality, issues = confident_learning(*_embeddings(path, used, *data))
        methods |= {"cleanlab": lowest(quality, n), "cleanlab, its own number": issues}
    parts = [slice(first, None, n_parts) for first in range(n_parts)]
    return [compare({k: m[p] for k, m in methods.items()}, labels, ids[used][p]) for p in parts]


def summary(runs: list[list[dict]]) -> list[dict]:
    """Means over audits, and the standard deviation of F1 where there are several."""
    rows = []
    for same in zip(*runs, strict=True):
        method = {"method": same[0]["method"]}
        row = {k: float(np.mean([r[k] for r in same])) for k in same[0] if k != "method"}
        if len(same) > 1:
            row["sd of f1"] = float(np.std([r["f1"] for r in same], ddof=1))
        rows.append(method | row)
    return rows


def _embeddings(
    path: str, used: np.ndarray, data: str, data_dir: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """zimg, ztxt of the used pairs, from the cache that the audit made."""
    from jest_tf.data.records import shard_records
    from jest_tf.data.sources import open_source, register

    register("examples.emoji.builder" if data.startswith("tfds:emoji_captions") else "")
    manifest = open_source(data, data_dir)
    cache = ReferenceCache.load(f"{path}.reference")
    parts = []
    for shard in range(len(manifest.shards)):
        places = [first_caption(record)[0] for record in shard_records(manifest, shard)]
        parts.append(cache.embeddings(shard, places))
    zimg, ztxt = (np.concatenate(z)[used] for z in zip(*parts, strict=True))
    return zimg, ztxt


if __name__ == "__main__":
    cli.run(main, FLAGS)
