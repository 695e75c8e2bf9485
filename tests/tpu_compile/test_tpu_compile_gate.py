"""The gate itself: libtpu's compiler, and the compiled program's collectives on CPU devices.

Collected only where launch/tpu_compile_env.sh has made the environment; about two minutes.
"""

import dataclasses
import pathlib
import subprocess

import commands
import numpy as np
import pytest
import tensorflow as tf

from jest_tf import check
from jest_tf.config import base_config
from jest_tf.devices import parse_topology
from jest_tf.errors import UserError
from jest_tf.models.dual_encoder import VARIANTS
from jest_tf.preflight import compiling as compiler
from jest_tf.preflight.tpu_compile.lower import (
    CompiledCollectives,
    hlo_of,
    jest_model,
    lower_selection,
)
from jest_tf.selection import LOCAL, Embeddings, SelectionSpec, gather_picked, select

V5E = parse_topology("v5e:2x4")


SMALL = """
from jest_tf.configs import emoji

def get_config(arg=""):
    c = emoji.get_config(arg)
    c.model.sizes = {"image": {"depth": 1}, "text": {"depth": 1}}  # more are only more of them
    return c
"""


def test_the_emoji_step_compiles_for_tpu(environment, tmp_path, capsys):
    (tmp_path / "small.py").write_text(SMALL)
    arguments = [
        f"--config={tmp_path}/small.py", "--nodata", "--config.reference.workdir=anywhere",
        "--config.reference.distillation=1.0", "--config.precision=bfloat16",
        "--config.model.variant=nano", "--compile_for=v5e:2x4", f"--tpu_compile_env={environment}",
    ]  # fmt: skip
    assert commands.run(check, arguments) == 0, capsys.readouterr().err
    _, found, compiled = capsys.readouterr().out.partition("Compiled for v5e:2x4: 8 chips")
    assert found
    for program in ("selection ", "train step 48/8"):
        line = next(line for line in compiled.splitlines() if line.strip().startswith(program))
        assert "HBM " in line and "free per chip" in line and "FLOP" in line


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_selection_compiles_at_scale(environment, loss):
    c = base_config()
    c.loss, c.selection.policy, c.model.variant = loss, "joint", "B"
    c.selection.super_batch, c.selection.sub_batch = 8 * 640, 8 * 128
    python = compiler.python_of(environment)
    compiled = compiler.compile_hlo("selection", lower_selection(c, 8), V5E, python)
    arguments = 640 * (4 * 768 * 4 + 1)
    assert arguments < compiled.used < 10 * arguments  # nothing of size B x B
    assert sum(c["in_loop"] for c in compiled.collectives) >= 2


def test_a_program_that_does_not_fit_is_explained(environment):
    def program(x):
        return tf.sort(tf.matmul(x, x, transpose_b=True))

    hlo = hlo_of("huge", program, tf.TensorSpec([80_000, 16]))
    with pytest.raises(UserError, match=r"(?s)huge does not compile for v5e:2x4.*memory"):
        compiler.compile_hlo("huge", hlo, V5E, compiler.python_of(environment))


def test_an_unknown_slice_is_explained(environment):
    hlo = hlo_of("small", lambda x: x + 1, tf.TensorSpec([8]))
    with pytest.raises(UserError, match="libtpu does not know the topology v5e:3x5"):
        python = compiler.python_of(environment)
        compiler.compile_hlo("small", hlo, parse_topology("v5e:3x5"), python)


@pytest.mark.parametrize("policy", ["joint", "independent_sampled"])
def test_collectives_in_loops_pick_what_one_replica_picks(environment, tmp_path, policy):
    """The program that a TPU gets, run on four CPU devices, against the local selection."""
    n_replicas, big, width = 4, 64, 8
    spec = SelectionSpec(big, 16, policy=policy, n_chunks=4)
    rng = np.random.default_rng(0)
    models = [[unit(rng.normal(size=(big, width))) for _ in range(2)] for _ in range(2)]
    scalars = [np.float32(10), np.float32(-3)]
    valid, seed = rng.random(big) < 0.9, np.array([3, 5], np.int32)
    image = rng.integers(0, 256, (big, 2, 3), np.uint8)

    def program(*inputs, collectives=None):
        learner, reference = Embeddings(*inputs[:4]), Embeddings(*inputs[4:8])
        group = collectives or CompiledCollectives(n_replicas)
        chosen = select(spec, learner, reference, inputs[8], inputs[9], group)
        return chosen.positions, gather_picked(inputs[10], chosen.positions, group)

    inputs = [*models[0], *scalars, *models[1], *scalars, valid, seed, image]
    expected, expected_images = program(*map(tf.constant, inputs), collectives=LOCAL)
    shares = [split(x, n_replicas) if np.ndim(x) and len(x) == big else tile(x, n_replicas)
              for x in inputs]  # fmt: skip
    specs = [tf.TensorSpec(x.shape[1:], tf.as_dtype(x.dtype)) for x in shares]
    positions, images = run(environment, tmp_path, hlo_of("step", program, *specs), shares)
    for replica in range(n_replicas):
        np.testing.assert_array_equal(positions[replica], expected)
    # Who trains on which is free; all picks together are the same examples.
    assert sorted(x.tobytes() for x in images.reshape(16, 6)) == sorted(
        x.tobytes() for x in expected_images.numpy().reshape(16, 6)
    )


def test_the_whole_step_is_that_of_one_replica(environment, tmp_path, monkeypatch):
    """What a TPU gets, Flexi-JEST and distillation too, run on four CPU devices, against one."""
    n_replicas, big, side = 4, 80, 48
    monkeypatch.setitem(VARIANTS, "mu", one_block(VARIANTS["mu"]))
    c = base_config()
    c.data.image_size, c.selection.policy = side, "joint"
    c.selection.super_batch, c.selection.sub_batch, c.selection.n_chunks = big, 16, 4
    c.resolution.score.resolution, c.resolution.low_share = "48/16", 0.5
    c.reference.distillation = 0.5
    rng = np.random.default_rng(0)
    batch = {
        "id": np.arange(big) * 10**10,
        "image": rng.integers(0, 256, (big, side, side, 3), np.uint8),
        "source": np.zeros(big, np.int32),
        "tokens": rng.integers(1, 4096, (big, 16), np.int32),
        "valid": rng.random(big) < 0.95,
        "record": np.arange(big) + 2**40,
    }
    alone = jest_model(c, 1, None, c)
    alone.collectives = lambda: LOCAL
    together = jest_model(c, n_replicas, None, c)
    for one, other in zip(alone.reference.variables, together.reference.variables, strict=True):
        other.assign(one + 0.01 * rng.normal(size=one.shape))  # else there is nothing to learn
        one.assign(other)
    expected = alone.step({name: tf.constant(value) for name, value in batch.items()})

    def program(*rows):
        return together.step(dict(zip(batch, rows, strict=True)))

    shares = [split(value, n_replicas) for value in batch.values()]
    specs = [tf.TensorSpec(x.shape[1:], tf.as_dtype(x.dtype)) for x in shares]
    graph = tf.function(program, jit_compile=True, autograph=False)
    concrete = graph.get_concrete_function(*specs)
    hlo = graph.experimental_get_compiler_ir(*specs)(stage="hlo_serialized")
    owner = {id(v.value.handle): v for v in together.variables + together.optimizer.variables}
    weights = [tile(owner[id(handle)].numpy(), n_replicas) for handle in concrete.captured_inputs]
    results = run(environment, tmp_path, hlo, shares + weights)
    given = iter(results)  # what a step leaves out is None and no output of the program
    outputs = tf.nest.flatten(concrete.structured_outputs)
    outputs = [None if output is None else next(given) for output in outputs]
    found = tf.nest.pack_sequence_as(concrete.structured_outputs, outputs)
    for replica in range(n_replicas):
        np.testing.assert_array_equal(found.picked_ids[replica], expected.picked_ids)
        np.testing.assert_array_equal(found.observed.code[replica], expected.observed.code)
        for name, value in expected.metrics.items():
            np.testing.assert_allclose(found.metrics[name][replica], value, rtol=1e-4, atol=1e-5)


def run(environment, folder, hlo, inputs):
    (folder / "program.hlo").write_bytes(hlo)
    np.savez(folder / "in.npz", **{f"arg_{k}": x for k, x in enumerate(inputs)})
    script = pathlib.Path(__file__).with_name("run_on_devices.py")
    done = subprocess.run(
        [compiler.python_of(environment), script, folder / "program.hlo", folder / "in.npz",
         folder / "out.npz", str(len(inputs[0]))], capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = np.load(folder / "out.npz")
    return [results[f"out_{k}"] for k in range(len(results.files))]


def one_block(mu):
    image, text = (dataclasses.replace(tower, depth=1) for tower in (mu.image, mu.text))
    return dataclasses.replace(mu, image=image, text=text)


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def split(x, n):
    return np.reshape(x, (n, len(x) // n, *x.shape[1:]))


def tile(x, n):
    return np.stack([x] * n)
