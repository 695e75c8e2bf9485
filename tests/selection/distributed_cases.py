"""One set of embeddings, every policy, criterion and loss, shared by any number of replicas.

Run as a program with TF_CONFIG, it is one worker of a MultiWorkerMirroredStrategy and prints what
it picked as JSON.
"""

import functools
import json

import numpy as np
import oracle
from quick_imports import quick_imports

with quick_imports():
    import tensorflow as tf

from jest_tf.selection import (
    Embeddings,
    SelectionSpec,
    draw,
    gather_picked,
    select,
)

BASE = SelectionSpec(super_batch=96, sub_batch=24, n_chunks=3)
# Each pair of policy, criterion and loss that the replicas' exchanges can tell apart: the criterion
# says whose embeddings travel, the loss what is summed over those of the chosen.
SPECS = {
    f"{policy} {criterion} {loss}": SelectionSpec(96, 24, policy, criterion, loss=loss, n_chunks=3)
    for policy, criterion, loss in (
        ("uniform", "learnability", "sigmoid"),
        ("joint", "learnability", "sigmoid"),
        ("joint", "learnability", "softmax"),
        ("joint", "hard_learner", "softmax"),
        ("joint", "easy_reference", "sigmoid"),
        ("independent_top_k", "learnability", "softmax"),
        ("independent_top_k", "easy_reference", "sigmoid"),
        ("independent_sampled", "learnability", "sigmoid"),
        ("independent_sampled", "hard_learner", "softmax"),
    )
}
SHARED = "joint learnability sigmoid"

_RNG = np.random.default_rng(12)
LEARNER = oracle.random_model(_RNG, 96, 24, 12.0, -5.0)
REFERENCE = oracle.random_model(_RNG, 96, 16, 15.0, -12.0, noise=0.5)
VALID = _RNG.random(96) > 0.1
# Most of the good rows on the first replica, so that picked examples must travel.
LEARNER["ztxt"][:24] = _RNG.permutation(LEARNER["ztxt"][:24])
SEED = [3, 14]


def tensors(rank, size):
    """(learner, reference, valid, seed) of one replica."""
    n = BASE.super_batch // size

    def rows(array):
        return tf.slice(array, [rank * n] + [0] * (array.ndim - 1), [n, *array.shape[1:]])

    learner, reference = (
        Embeddings(
            rows(m["zimg"]), rows(m["ztxt"]), tf.constant(m["scale"]), tf.constant(m["bias"])
        )
        for m in (LEARNER, REFERENCE)
    )
    return learner, reference, rows(VALID), tf.constant(SEED)


def wide(ids):
    """A 64-bit value whose lower half has its sign bit set."""
    return tf.cast(ids, tf.int64) * (2**33 + 1) + 2**31


def replica_step(collectives):
    """{positions: name -> [b], n_candidates: name -> [], share: ids [b / R] of SHARED's picks}."""
    inputs = tensors(collectives.rank, collectives.size)
    picked = {name: select(spec, *inputs, collectives) for name, spec in SPECS.items()}
    n = BASE.super_batch // collectives.size
    ids = collectives.rank * n + tf.range(n)
    # A type that does not fill 32 bits, one that fills them, and one of 64.
    nest = {"low": tf.cast(ids, tf.uint8), "id": ids, "wide": wide(ids)}
    share = gather_picked(nest, picked[SHARED].positions, collectives, buffer_rows=3)
    same = (tf.cast(share["low"], tf.int32) == share["id"]) & (share["wide"] == wide(share["id"]))
    return {
        "positions": {name: selection.positions for name, selection in picked.items()},
        "n_candidates": {name: selection.n_candidates for name, selection in picked.items()},
        "share": tf.where(same, share["id"], -1),
    }


@functools.cache
def expected(name):
    """What the float64 oracle picks, and what every layout must pick: there is no near-tie."""
    spec, count = SPECS[name], BASE.sub_batch
    if spec.policy == "joint":
        count = spec.chunk_size
    logits = oracle.logits_given(spec.loss, spec.criterion, LEARNER, REFERENCE)
    allowed, positions = VALID.copy(), []
    while len(positions) < BASE.sub_batch:
        values = np.zeros(96) if spec.policy == "uniform" else logits(positions)
        if spec.policy != "independent_top_k":
            chunk = len(positions) // count
            values = values + draw.gumbel(tf.constant(SEED), chunk, 0, 96).numpy()
        order = np.argsort(np.where(allowed, -values, np.inf))
        gaps = -np.diff(values[order[: count + 1]])
        largest = max(1.0, np.abs(values).max())
        assert gaps.min() > oracle.NEAR_TIE * largest, f"{name}: a near-tie; take other data"
        positions += order[:count].tolist()
        allowed[positions] = False
    return np.array(positions)


def main():
    from jest_tf.runtime.collectives import ReplicaCollectives

    # As in conftest.py: a graph that runs once is not worth rewriting.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    step = tf.function(
        lambda: strategy.run(lambda: replica_step(ReplicaCollectives())), autograph=False
    )
    report = tf.nest.map_structure(lambda x: x.numpy().tolist(), step())
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
