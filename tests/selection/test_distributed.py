"""The picked set does not depend on the number of replicas or processes, but for near-ties.

Positions are compared exactly: `distributed_cases` asserts that its data hold no near-tie.
"""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from counting import CountingCollectives
from distributed_cases import BASE, SHARED, SPECS, VALID, expected, replica_step, tensors

from benchmarks.selection_costs import traffic
from jest_tf.runtime.collectives import ReplicaCollectives
from jest_tf.selection import SelectionSpec, select
from jest_tf.selection.exchange import assign, gather_picked
from jest_tf.selection.scores import similarity

HERE = pathlib.Path(__file__).parent


def mirrored(logical_devices, size):
    # Reduction to one device: TensorFlow's collective groups of one process keep their first size.
    return tf.distribute.MirroredStrategy(
        logical_devices[:size], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def run(strategy, step):
    """[results of replica 0, replica 1, …]"""
    results = tf.function(lambda: strategy.run(step), autograph=False)()
    return [
        tf.nest.map_structure(lambda x, r=r: strategy.experimental_local_results(x)[r], results)
        for r in range(strategy.num_replicas_in_sync)
    ]


def test_picks_are_identical_on_replicas(logical_devices):
    """Every policy, criterion and loss; every replica agrees; the share is of the chosen."""
    strategy = mirrored(logical_devices, 4)
    replicas = run(strategy, lambda: replica_step(ReplicaCollectives()))
    for name in SPECS:
        truth = expected(name)
        for replica in replicas:
            np.testing.assert_array_equal(replica["positions"][name], truth, name)
            assert replica["n_candidates"][name] == VALID.sum()
    ids = np.concatenate([replica["share"] for replica in replicas])
    np.testing.assert_array_equal(np.sort(ids), np.sort(expected(SHARED)))


def test_scope_replica_takes_equal_shares_and_moves_no_example(logical_devices):
    size, n = 2, BASE.super_batch // 2
    spec = dataclasses.replace(BASE, scope="replica")

    def step():
        collectives = ReplicaCollectives()
        selection = select(spec, *tensors(collectives.rank, size), collectives)
        ids = collectives.rank * n + tf.range(n)
        plan = assign(selection.positions, n, size)
        return selection.positions, gather_picked(ids, selection.positions, collectives), plan

    (positions, first, plan), (same, second, _) = run(mirrored(logical_devices, size), step)
    assert plan.n_travel == 0
    np.testing.assert_array_equal(positions, same)
    for chunk in np.reshape(positions, [spec.n_chunks, -1]):
        assert np.sum(chunk < n) == spec.chunk_size // 2
    assert np.max(first) < n <= np.min(second)
    assert sorted([*first.numpy(), *second.numpy()]) == sorted(positions.numpy())


def test_two_processes_pick_what_one_does():
    """Every policy, criterion and loss, under MultiWorkerMirroredStrategy on this host."""
    with socket.socket() as one, socket.socket() as two:
        for s in (one, two):
            s.bind(("localhost", 0))
        workers = [f"localhost:{s.getsockname()[1]}" for s in (one, two)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "distributed_cases.py")],
            env=os.environ
            | {
                "TF_CONFIG": json.dumps(
                    {"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}}
                ),
                "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE.parent)]),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=1200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert codes == [0, 0], "\n".join(errors[-3000:] for _, errors in outputs)
    told = [json.loads(output.splitlines()[-1]) for output, _ in outputs]
    for name in SPECS:
        truth = expected(name).tolist()
        assert told[0]["positions"][name] == truth, name
        assert told[1]["positions"][name] == truth, name
    assert sorted(told[0]["share"] + told[1]["share"]) == sorted(expected(SHARED).tolist())


@pytest.mark.parametrize("size", [2, 4, 8])
def test_assignment_keeps_examples_at_home(size):
    """Only the surplus travels, every slot is filled once, whatever the imbalance."""
    rng = np.random.default_rng(size)
    n, b = 64 // size, 32
    uneven = np.arange(32, dtype=np.int32)[::-1]
    for positions in (*(rng.permutation(64)[:b].astype(np.int32) for _ in range(4)), uneven):
        plan = assign(tf.constant(positions), n, size)
        home = positions // n
        counts = np.bincount(home, minlength=size)
        assert plan.n_travel == np.maximum(counts - b // size, 0).sum()
        places = sorted(zip(plan.destination.numpy(), plan.slot.numpy(), strict=True))
        assert places == [(r, s) for r in range(size) for s in range(b // size)]
        moved = np.flatnonzero(plan.destination.numpy() != home)
        np.testing.assert_array_equal(np.sort(plan.travels[: plan.n_travel].numpy()), moved)


def test_bytes_on_the_wire_are_those_of_the_formula(logical_devices):
    """(value, position) pairs and picked embeddings, nothing that grows with B x d."""
    size = 2
    counted = []

    def step():
        collectives = CountingCollectives(ReplicaCollectives())
        counted.append(collectives)
        return select(BASE, *tensors(collectives.rank, size), collectives).positions

    run(mirrored(logical_devices, size), step)
    widths = [model.zimg.shape[1] for model in tensors(0, 1)[:2]]
    for collectives in counted:
        assert collectives.bytes == traffic(BASE, size, widths)


@pytest.mark.parametrize("tile, d, m", [(128, 512, 64), (512, 768, 8), (1280, 768, 100)])
def test_a_tile_has_the_same_sums_whatever_the_rows(tile, d, m):
    """Bit for bit: 1, 2, 4 and 8 replicas hold 8, 4, 2 and 1 tiles of one shape."""
    rng = np.random.default_rng(d + m)
    rows, columns = rng.normal(size=(8, tile, d)), rng.normal(size=(m, d))
    program = tf.function(similarity, jit_compile=True, autograph=False)
    rows, columns = tf.constant(rows, tf.float32), tf.constant(columns, tf.float32)
    whole = program(rows, columns).numpy()
    # A sum of d products of any order is within d roundings of the sum of their sizes.
    sizes = np.abs(rows) @ np.abs(columns).T
    assert np.all(np.abs(whole - np.float64(rows) @ np.float64(columns).T) <= d * 2**-24 * sizes)
    for n in (1, 2, 4):
        np.testing.assert_array_equal(program(rows[8 - n :], columns), whole[8 - n :])


def test_spec_that_does_not_fit_the_replicas_is_refused():
    with pytest.raises(ValueError, match="cannot be shared|not divisible"):
        SelectionSpec(64, 20, n_chunks=4).check_replicas(8)
