"""One set of embeddings and every policy, criterion and loss, shared by any number of replicas.

Run as a program with TF_CONFIG, it is one worker of a MultiWorkerMirroredStrategy and prints what
it picked as JSON.
"""

import functools
import itertools
import json

import numpy as np
import oracle
import tensorflow as tf

from jest_tf.selection import LOCAL, Embeddings, SelectionSpec, gather_picked, select

BASE = SelectionSpec(super_batch=96, sub_batch=24, n_chunks=3)
POLICIES = ("independent_top_k", "independent_sampled", "joint")
CRITERIA = ("learnability", "hard_learner", "easy_reference")
SPECS = {"uniform": SelectionSpec(96, 24, policy="uniform", n_chunks=3)} | {
    f"{policy} {criterion} {loss}": SelectionSpec(96, 24, policy, criterion, loss=loss, n_chunks=3)
    for policy, criterion, loss in itertools.product(POLICIES, CRITERIA, ("sigmoid", "softmax"))
}
SHARED = "joint learnability sigmoid"

_RNG = np.random.default_rng(11)
LEARNER = oracle.random_model(_RNG, 96, 24, 12.0, -5.0)
REFERENCE = oracle.random_model(_RNG, 96, 16, 15.0, -6.0, noise=0.5)
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
def _expected():
    picked = tf.function(replica_step, autograph=False)(LOCAL)["positions"]
    return {name: positions.numpy() for name, positions in picked.items()}


def expected(name):
    """What one replica picks."""
    return _expected()[name]


def main():
    from jest_tf.runtime.collectives import ReplicaCollectives

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    step = tf.function(
        lambda: strategy.run(lambda: replica_step(ReplicaCollectives())), autograph=False
    )
    report = tf.nest.map_structure(lambda x: x.numpy().tolist(), step())
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
