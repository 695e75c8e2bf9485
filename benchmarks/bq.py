"""Joint against independent selection without training, from stored embeddings: where do they part?

    python -m benchmarks.bq --name='emoji pool' --learner=CACHE --reference=CACHE

Draws super-batches of 5·b rows, selects b of each by joint and by independent selection from the
same scores, greedily and sampled, and compares the joint scores of what they take, a row. Learner
and reference are folders of `jest cache_reference`. `--rows`: `all`; `families`, captions with one
of the most frequent first words; `clustered`, neighbours by the reference's text embeddings in
eight data lanes. Appends JSON lines; other settings of the same name stay.
"""

import json
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks.evidence.curves import mean_of
from jest_tf.data.fields import hash64
from jest_tf.data.reference_cache import CAPTIONS, ReferenceCache
from jest_tf.errors import UserError
from jest_tf.preflight import data_checks
from jest_tf.selection import Embeddings, SelectionSpec, joint_score, select
from jest_tf.selection.scores import terms
from jest_tf.selection.select import pool

FLAGS = flags.FLAGS
FAMILIES_SHARE = 0.1  # of the rows that few families are to have, at least
LANES = 8
PER_CLUSTER = 100
PAIRED = {"greedy": ("joint", "independent_top_k"), "sampled": ("joint", "independent_sampled")}


def define_flags() -> None:
    flags.DEFINE_string("name", None, "Of the data, in the table.", required=True)
    flags.DEFINE_string("learner_name", "base", "Of the learner, in the table.")
    flags.DEFINE_string("learner", None, "Cache of the learner's embeddings.", required=True)
    flags.DEFINE_string("reference", None, "Cache of the reference's.", required=True)
    flags.DEFINE_float("learner_weight", 0.5, "As selection.learner_weight.")
    flags.DEFINE_enum(
        "same_caption",
        "ignore",
        ["ignore", "negative"],
        "Whether rows of one caption are negatives.",
    )
    flags.DEFINE_enum("rows", "all", list(ORDERS), "Which rows make a super-batch.")
    flags.DEFINE_list("b", ["64", "128", "256", "512", "1024", "2048"], "Sub-batch sizes.")
    flags.DEFINE_integer("filter", 5, "B = filter * b.")
    flags.DEFINE_integer("draws", 8, "Super-batches of each size.")
    flags.DEFINE_string("out", "benchmarks/measured/bq.jsonl", "File of JSON lines.")


def read(cache: ReferenceCache) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
    """(zimg, ztxt float32 [n, d], first captions) of all rows."""
    files = (tf.data.TFRecordDataset(path).as_numpy_iterator() for path in cache.shard_paths)
    rows = tf.constant([row for file in files for row in file])
    parsed = cache.parse(rows, tf.zeros([len(rows)], tf.int64))
    texts = tf.io.parse_example(rows, {CAPTIONS: tf.io.RaggedFeature(tf.string)})[CAPTIONS]
    captions = [(some or [b""])[0] for some in texts.to_list()]
    return parsed["reference_zimg"].numpy(), parsed["reference_ztxt"].numpy(), captions


def everything(ztxt, captions) -> Callable:
    """Rows at random."""
    return lambda rng, n: rng.choice(len(captions), n, replace=False)


def families(ztxt, captions) -> Callable:
    """Rows at random whose caption starts with one of the most frequent words."""
    words = np.array([(c.lower().split() or [b""])[0] for c in captions])
    names, counts = np.unique(words, return_counts=True)
    order = np.argsort(-counts)
    n_used = np.searchsorted(np.cumsum(counts[order]), FAMILIES_SHARE * len(captions)) + 1
    rows = np.flatnonzero(np.isin(words, names[order[:n_used]]))
    return lambda rng, n: rng.choice(rows, n, replace=False)


def clustered(ztxt, captions) -> Callable:
    """Runs of neighbours, one from each data lane."""
    order = cluster_order(ztxt)

    def draw(rng, n):
        lanes = np.array_split(order, LANES)
        starts = [rng.integers(0, len(lane) - n // LANES + 1) for lane in lanes]
        return np.concatenate([a[s : s + n // LANES] for a, s in zip(lanes, starts, strict=True)])

    return draw


def cluster_order(ztxt) -> np.ndarray:
    """The rows, those of one cluster of text embeddings one after the other."""
    rng = np.random.default_rng(0)
    centres = ztxt[rng.choice(len(ztxt), len(ztxt) // PER_CLUSTER, replace=False)]
    for _ in range(5):
        nearest = np.argmax(ztxt @ centres.T, axis=1)
        for k in np.unique(nearest):
            mean = ztxt[nearest == k].mean(axis=0)
            centres[k] = mean / max(np.linalg.norm(mean), 1e-9)
    return np.lexsort((rng.random(len(ztxt)), nearest))


ORDERS = {"all": everything, "families": families, "clustered": clustered}


def compare(
    spec_of: Callable, models: list[Embeddings], hashes: np.ndarray, seed: int
) -> dict[str, float]:
    """Of what each policy takes of one super-batch: joint score a row, mates of equal caption; and
    the share that both take."""
    valid, found, taken = tf.ones([models[0].zimg.shape[0]], tf.bool), {}, {}
    for how, policies in PAIRED.items():
        for name, policy in zip(("joint", "independent"), policies, strict=True):
            spec = spec_of(policy, how == "greedy")
            positions = select(spec, *models, valid, tf.constant([0, seed])).positions
            signed = terms(spec, *models)
            _, _, usable = pool(spec.loss, signed, valid)
            found[f"{how}_{name}"] = float(joint_score(spec, positions, signed, usable))
            rows = positions.numpy()
            found[f"{how}_{name}_mates"] = spec.sub_batch * data_checks.equal_share(hashes[rows])
            taken[how, name] = set(rows.tolist())
        both = taken[how, "joint"] & taken[how, "independent"]
        found[f"{how}_in_common"] = len(both) / spec.sub_batch
    return found


def measure(draw: Callable, embeddings: list, codes: np.ndarray, b: int, options) -> dict:
    """Means over super-batches, and b·q of them."""
    B, n_draws = options.filter * b, options.draws
    columns: dict[str, list[float]] = {}
    for seed in range(n_draws):
        rows = draw(np.random.default_rng(seed), B)
        hashes = codes[rows]
        captions = tf.constant(np.stack([hashes >> 24, hashes & 0xFFFFFF], axis=1), tf.float32)
        captions = captions if options.same_caption == "ignore" else None
        models = [
            Embeddings(
                tf.constant(zimg[rows]), tf.constant(ztxt[rows]), tf.constant(scale),
                tf.constant(bias), captions,
            )
            for zimg, ztxt, scale, bias in embeddings
        ]  # fmt: skip

        def spec_of(policy, greedy):
            return SelectionSpec(
                B, b, policy=policy, greedy=greedy, learner_weight=options.learner_weight
            )

        found = compare(spec_of, models, hashes, seed)
        for how in PAIRED:
            found[f"{how}_gain"] = found[f"{how}_joint"] - found[f"{how}_independent"]
        zimg, ztxt, scale, bias = embeddings[1]
        few = rows[:: max(1, B // 2048)]
        found["bq_caption"] = b * data_checks.equal_share(hashes)
        found["bq_match"] = b * data_checks.match_share(zimg[few], ztxt[few], scale, bias)
        for name, value in found.items():
            columns.setdefault(name, []).append(value)
    means = {name: mean_of(values) for name, values in columns.items()}
    errors = {f"{name}_se": mean.error for name, mean in means.items() if name.endswith("gain")}
    return {name: mean.mean for name, mean in means.items()} | errors


def main(_) -> None:
    caches = [ReferenceCache.load(folder) for folder in (FLAGS.learner, FLAGS.reference)]
    if caches[0].data != caches[1].data:
        raise UserError("--learner and --reference are caches of different data")
    read_all = [read(cache) for cache in caches]
    ztxt, captions = read_all[1][1:]
    embeddings = [
        (zimg, ztxt, np.float32(cache.scale), np.float32(cache.bias))
        for (zimg, ztxt, _), cache in zip(read_all, caches, strict=True)
    ]
    codes = np.array([hash64(c.lower()) & (2**48 - 1) for c in captions], np.int64)
    draw = ORDERS[FLAGS.rows](ztxt, captions)
    setting = {"name": FLAGS.name, "learner": FLAGS.learner_name, "rows": FLAGS.rows}
    setting |= {"learner_weight": FLAGS.learner_weight, "filter": FLAGS.filter}
    setting |= {"same_caption": FLAGS.same_caption}
    out, kept = pathlib.Path(FLAGS.out), []
    if out.exists():
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        kept = [line for line in lines if any(line.get(k) != v for k, v in setting.items())]
    for b in map(int, FLAGS.b):
        try:
            line = setting | {"b": b, "draws": FLAGS.draws}
            line |= measure(draw, embeddings, codes, b, FLAGS)
        except ValueError as error:  # fewer rows than a super-batch
            print(f"b = {b}: {error}")
            break
        kept.append({k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in line.items()})
        print(json.dumps(kept[-1]), flush=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


if __name__ == "__main__":
    define_flags()
    app.run(main)
