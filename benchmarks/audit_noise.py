"""How well `jest audit` finds wrong pairs, beside CLIPScore and confident learning (cleanlab).

    python -m benchmarks.audit_noise --audit=audit.parquet --labels=data/pool/noise.jsonl
    python -m benchmarks.audit_noise --audit=audit.parquet --emoji

The audit needs `--reference`. CLIPScore and cleanlab judge as many pairs wrong as the audit does,
by embeddings of the same reference. For cleanlab, captions are classes: k-means of their
embeddings; a logistic regression on pictures' embeddings, cross-validated, gives probabilities.
Duplicates and pairs that were not seen are left out.
"""

import datetime
import json
import platform

import numpy as np
import pyarrow.parquet as pq

from jest_tf import cli, config_flag
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.errors import UserError
from jest_tf.monitoring.audit import embeddings, first_caption
from jest_tf.monitoring.labels import UNLABELLED, Labels, read_labels

FLAGS, _flag = cli.own_flags()
_AUDIT = _flag("string", "audit", None, "Table of `jest audit`.")
_LABELS = _flag("list", "labels", [], "Files of noise labels.")
_EMOJI = _flag("bool", "emoji", False, "The labels of the emoji pool.")
_CLEANLAB = _flag("bool", "cleanlab", True, "Run cleanlab too.")
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
    """A row for each method: scores, and the share of each kind that it flags."""
    kinds = np.array(labels.names)[labels.codes(ids)]
    noisy = np.isin(kinds, list(labels.noisy))
    rows = []
    for name, flagged in methods.items():
        row = {"method": name, "flagged": int(flagged.sum())} | scores(flagged, noisy)
        rows.append(row | {k: float(flagged[kinds == k].mean()) for k in np.unique(kinds)})
    return rows


def confident_learning(zimg: np.ndarray, ztxt: np.ndarray) -> np.ndarray:
    """cleanlab's label quality of each pair, float [n]."""
    from cleanlab.rank import get_label_quality_scores
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    means = MiniBatchKMeans(min(CLASSES, len(ztxt) // 20), random_state=0, n_init=3)
    _, classes = np.unique(means.fit_predict(ztxt), return_inverse=True)
    model = LogisticRegression(max_iter=200)
    probabilities = cross_val_predict(model, zimg, classes, cv=5, method="predict_proba")
    return get_label_quality_scores(classes, probabilities)


def main(argv: list[str]) -> None:
    """Prints the table."""
    config_flag.refuse_extra(argv)
    table = pq.read_table(_AUDIT.value)
    if "reference_score" not in table.column_names:
        raise UserError(f"{_AUDIT.value} has no reference_score: audit with --reference.")
    if _EMOJI.value:
        from examples.emoji import builder as emoji

        labels = Labels(emoji.noise_by_id(), emoji.NOISY)
    else:
        labels = read_labels(_LABELS.value)
    ids, verdict = table["id"].to_numpy(), np.array(table["verdict"].to_pylist())
    used = np.isin(verdict, ["wrong pair", "useful", "learned"])
    used &= labels.codes(ids) != labels.names.index(UNLABELLED)
    flagged = verdict[used] == "wrong pair"
    methods = {"audit": flagged}
    for name in ("reference_score", "reference_loss"):
        value = table[name].to_numpy()[used] * (-1 if name.endswith("loss") else 1)
        methods[name] = lowest(value, int(flagged.sum()))
    if _CLEANLAB.value:
        zimg, ztxt = _embeddings(used)
        methods["cleanlab"] = lowest(confident_learning(zimg, ztxt), int(flagged.sum()))
    rows = compare(methods, labels, ids[used])
    names = list(rows[0])
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        told = [f"{v:.3f}" if isinstance(v, float) else f"{v}" for v in row.values()]
        print(f"| {' | '.join(told)} |")
    if _OUT.value:
        day, machine = datetime.date.today().isoformat(), platform.processor()
        with open(_OUT.value, "a", encoding="utf-8") as file:
            file.write(json.dumps({"date": day, "machine": machine, "rows": rows}) + "\n")


def _embeddings(used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """zimg, ztxt of the used pairs, from the cache that the audit made."""
    from jest_tf.data.records import shard_records
    from jest_tf.data.sources import open_source, register

    register("examples.emoji.builder" if _EMOJI.value else "")
    manifest = open_source(_DATA.value, _DATA_DIR.value)
    cache = ReferenceCache.load(f"{_AUDIT.value}.reference")
    parts = []
    for shard in range(len(manifest.shards)):
        places = [first_caption(record)[0] for record in shard_records(manifest, shard)]
        parts.append(embeddings(cache, shard, places))
    zimg, ztxt = (np.concatenate(z)[used] for z in zip(*parts, strict=True))
    return zimg, ztxt


if __name__ == "__main__":
    cli.run(main, FLAGS)
