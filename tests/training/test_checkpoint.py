"""Checkpoints: exact bits, all or nothing, damage noticed, the last good one never lost."""

import contextlib
import hashlib
import io
import json
import os
import resource
import shutil
import tempfile
import threading
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors
import tensorflow as tf
from unprivileged import unprivileged

from jest_tf.models.weights.tensors import open_tensors
from jest_tf.training.run.checkpoint import (
    CheckpointDamaged,
    Checkpointer,
    CheckpointMismatch,
    CheckpointNotFound,
    CheckpointNotSaved,
)

STATE = {"step": 7, "clock_seconds": 0.1 + 0.2, "ledger": {"scored": 2**60, "flops": 1e300}}


def awkward_values() -> dict[str, np.ndarray]:
    """Values whose bits a careless format would lose: NaN payloads, -0, denormals, bfloat16."""
    bits = np.array([0x7FC00001, 0x80000000, 0x00000001, 0xFF800000], np.uint32)
    return {
        "learner/kernel": bits.view(np.float32).reshape(2, 2),
        "learner/bf16": np.arange(5, dtype=np.uint16).view(tf.bfloat16.as_numpy_dtype),
        "learner/scalar_bf16": np.array(1.5, tf.bfloat16.as_numpy_dtype),
        "optimizer/iteration": np.array(2**62 + 1, np.int64),
        "optimizer/seed": np.array([1, 2**32 - 1], np.uint32),
        "optimizer/flag": np.array([True, False]),
        "optimizer/empty": np.zeros([0, 3], np.float16),
    }


def variables_of(values: dict[str, np.ndarray]) -> dict[str, tf.Variable]:
    return {name: tf.Variable(value) for name, value in values.items()}


def zeros_like(values: dict[str, np.ndarray]) -> dict[str, tf.Variable]:
    return variables_of({name: np.zeros_like(value) for name, value in values.items()})


def assert_same_bits(variables: dict, values: dict[str, np.ndarray]) -> None:
    for name, value in values.items():
        found = variables[name].numpy()
        assert np.asarray(found).dtype == value.dtype, name
        assert np.asarray(found).tobytes() == value.tobytes(), name


def one(value: float) -> dict[str, tf.Variable]:
    return {"w": tf.Variable(np.full([1000], value, np.float32))}


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.fixture(params=["local", "with spaces é中"])
def directory(request, tmp_path):
    """A folder, and one with an awkward name."""
    return str(tmp_path / request.param / "checkpoints")


def test_restores_every_bit_and_the_state(directory):
    values = awkward_values()
    Checkpointer(directory).save(7, variables_of(values), STATE)
    restored = zeros_like(values)
    assert Checkpointer(directory).restore(restored) == STATE
    assert_same_bits(restored, values)


def test_nothing_saved_is_none_and_leaves_variables_alone(directory):
    variables = one(3.0)
    assert Checkpointer(directory).restore(variables) is None
    assert Checkpointer(directory).steps() == []
    assert variables["w"].numpy()[0] == 3.0


def test_newest_is_restored_and_a_named_step_on_request(directory):
    checkpointer = Checkpointer(directory)
    for step in (100, 9, 20):
        checkpointer.save(step, one(step), {"step": step})
    assert checkpointer.steps() == [9, 20, 100]
    variables = one(0)
    assert checkpointer.restore(variables)["step"] == 100
    assert checkpointer.restore(variables, step=20)["step"] == 20
    assert variables["w"].numpy()[0] == 20


def test_the_safetensors_library_reads_the_file(tmp_path):
    values = awkward_values()
    Checkpointer(tmp_path).save(1, variables_of(values), {})
    path = tmp_path / "step-00000001" / "variables.safetensors"
    with safetensors.safe_open(path, framework="numpy") as file:
        assert set(file.keys()) == set(values)
        for name in values:
            part = file.get_slice(name)
            assert tuple(part.get_shape()) == values[name].shape, name
            if part.get_dtype() != "BF16":  # numpy alone has no such type
                assert file.get_tensor(name).tobytes() == values[name].tobytes(), name


def as_an_earlier_version(folder: Path) -> None:
    """Rewrites a checkpoint as .npz, format 1."""
    tensors = open_tensors([str(folder / "variables.safetensors")])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(tensors):
            value = tensors[name].read()
            value = value.view("uint16") if tensors[name].dtype == "bfloat16" else value
            archive.writestr(f"{name}.npy", array_bytes(value))
    (folder / "variables.safetensors").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["format"] = 1
    del manifest["files"]["variables.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    forge(folder, "variables.npz", out.getvalue())


def test_a_checkpoint_of_an_earlier_version_is_restored(tmp_path):
    values = awkward_values()
    Checkpointer(tmp_path).save(1, variables_of(values), STATE)
    as_an_earlier_version(tmp_path / "step-00000001")
    restored = zeros_like(values)
    assert Checkpointer(tmp_path).restore(restored) == STATE
    assert_same_bits(restored, values)
    Checkpointer(tmp_path).save(2, variables_of(values), STATE)
    assert Checkpointer(tmp_path).steps() == [1, 2]


def test_equal_values_give_equal_bytes(tmp_path):
    for name in "ab":
        Checkpointer(tmp_path / name).save(1, one(1), STATE)
    files = [tmp_path / name / "step-00000001" / "manifest.json" for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("file", ["variables.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("spoil", [flip_bit, truncate, os.unlink])
def test_damaged_newest_is_reported_and_the_previous_used(tmp_path, file, spoil):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, one(1), {"step": 1})
    checkpointer.save(2, one(2), {"step": 2})
    spoil(tmp_path / "step-00000002" / file)
    variables = one(0)
    assert checkpointer.restore(variables) == {"step": 1}
    assert variables["w"].numpy()[0] == 1
    is_unfinished = file == "manifest.json" and spoil is os.unlink
    assert list(checkpointer.damaged) == ([] if is_unfinished else [2])
    with pytest.raises(CheckpointNotFound if is_unfinished else CheckpointDamaged):
        checkpointer.restore(variables, step=2)
    # The run reaches that step again: the damaged folder is replaced by a sound one.
    checkpointer.save(2, one(22), {"step": 2})
    assert checkpointer.restore(variables) == {"step": 2}
    assert variables["w"].numpy()[0] == 22


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    for step in (1, 2):
        checkpointer.save(step, one(step), {})
        truncate(tmp_path / f"step-0000000{step}" / "variables.safetensors")
    with pytest.raises(CheckpointDamaged, match="(?s)step 2.*step 1"):
        checkpointer.restore(one(0))


def test_differences_are_listed_and_nothing_is_assigned(tmp_path):
    saved = {"a": tf.Variable([1.0]), "b": tf.Variable([1.0]), "left_over": tf.Variable([1.0])}
    Checkpointer(tmp_path).save(1, saved, {})
    asked = {"a": tf.Variable([[0.0]]), "b": tf.Variable([0]), "missing": tf.Variable([0.0])}
    with pytest.raises(CheckpointMismatch) as raised:
        Checkpointer(tmp_path).restore(asked)
    message = str(raised.value)
    assert "4 of its variables differ" in message
    for part in ("[1, 1]", "int32", "missing", "left_over", "no such variable"):
        assert part in message
    assert asked["a"].numpy().sum() == 0 and asked["b"].numpy().sum() == 0


def test_a_long_list_of_differences_is_cut(tmp_path):
    Checkpointer(tmp_path).save(1, one(0), {})
    asked = {f"layer_{i}": tf.Variable(0.0) for i in range(50)}
    with pytest.raises(CheckpointMismatch, match="51 of its(?s:.*)and 43 more"):
        Checkpointer(tmp_path).restore(asked)


def test_only_restores_the_part_named(tmp_path):
    values = awkward_values()
    Checkpointer(tmp_path).save(1, variables_of(values), STATE)
    learner = {name: value for name, value in values.items() if name.startswith("learner/")}
    restored = zeros_like(learner)
    assert Checkpointer(tmp_path).restore(restored, only="learner/") == STATE
    assert_same_bits(restored, learner)
    del restored["learner/bf16"]
    with pytest.raises(CheckpointMismatch, match="learner/bf16"):
        Checkpointer(tmp_path).restore(restored, only="learner/")


def test_keeps_the_newest_n(directory):
    checkpointer = Checkpointer(directory, keep=2)
    for step in range(1, 6):
        checkpointer.save(step, one(step), {})
    assert checkpointer.steps() == [4, 5]


def test_keep_never_drops_the_one_just_saved(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=1)
    checkpointer.save(100, one(100), {"step": 100})
    shutil.copytree(tmp_path / "step-00000100", tmp_path / "step-00000200")
    flip_bit(tmp_path / "step-00000200" / "variables.safetensors")
    checkpointer.save(150, one(150), {"step": 150})
    assert 150 in checkpointer.steps()
    assert checkpointer.restore(one(0)) == {"step": 150}


def test_a_sound_step_is_not_written_twice(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, one(1), {"at": "cadence"})
    before = (tmp_path / "step-00000001" / "variables.safetensors").stat().st_mtime_ns
    checkpointer.save(1, one(1), {"at": "SIGTERM"})
    assert (tmp_path / "step-00000001" / "variables.safetensors").stat().st_mtime_ns == before


@contextlib.contextmanager
def files_limited_to(n_bytes: int):
    """The kernel refuses to let any file of this process grow beyond `n_bytes`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [0, 100, 3000])
def test_full_disk_says_so_and_keeps_the_last_good_one(tmp_path, limit):
    checkpointer = Checkpointer(tmp_path, keep=1)
    checkpointer.save(1, one(1), {"step": 1})
    with files_limited_to(limit), pytest.raises(CheckpointNotSaved, match=r"step 2 .*[\s\S]*\[1\]"):
        checkpointer.save(2, one(2), {"step": 2})
    assert os.listdir(tmp_path) == ["step-00000001"]
    assert checkpointer.restore(one(0)) == {"step": 1}
    checkpointer.save(2, one(2), {"step": 2})
    assert checkpointer.restore(one(0)) == {"step": 2}


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CheckpointNotSaved, match="(?s)file.*permissions"):
        Checkpointer(tmp_path / "file" / "checkpoints").save(1, one(1), {})


def test_read_only_folder_says_so_and_keeps_the_last_good_one():
    folder = Path(tempfile.mkdtemp())
    try:
        checkpointer = Checkpointer(folder, keep=1)
        checkpointer.save(1, one(1), {"step": 1})
        folder.chmod(0o555)
        with unprivileged(), pytest.raises(CheckpointNotSaved, match="(?s)denied.*saved: .1."):
            checkpointer.save(2, one(2), {"step": 2})
        assert checkpointer.restore(one(0)) == {"step": 1}
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_write_error_that_the_disk_did_not_report_is_caught(tmp_path, monkeypatch):
    """What is on the disk is read back before it is published."""
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, one(1), {"step": 1})
    publish_sync = os.fsync

    def lose_a_bit(handle):
        publish_sync(handle)
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if path.name == "variables.safetensors":
            flip_bit(path)

    monkeypatch.setattr(os, "fsync", lose_a_bit)
    with pytest.raises(CheckpointNotSaved, match="SHA-256"):
        checkpointer.save(2, one(2), {"step": 2})
    assert checkpointer.steps() == [1]


@pytest.mark.parametrize("n_calls", range(1, 9))
def test_killed_at_any_system_call_leaves_a_sound_newest(tmp_path, monkeypatch, n_calls):
    """Stop dead at the n-th fsync, rename or removal of the second save."""
    checkpointer = Checkpointer(tmp_path, keep=1)
    checkpointer.save(1, one(1), {"step": 1})
    calls = {"left": n_calls}

    class Killed(BaseException):
        pass

    def dying(function):
        def call(*args, **kwargs):
            calls["left"] -= 1
            if calls["left"] <= 0:
                raise Killed
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((os, "fsync"), (os, "rename"), (shutil, "rmtree")):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        with contextlib.suppress(Killed):
            checkpointer.save(2, one(2), {"step": 2})
    rerun = Checkpointer(tmp_path, keep=1)
    assert rerun.restore(one(0))["step"] in (1, 2)
    assert not rerun.damaged
    rerun.save(3, one(3), {"step": 3})
    assert os.listdir(tmp_path) == ["step-00000003"]


@pytest.mark.parametrize("n_replicas", [1, 2, 4])
def test_distributed_variables_are_restored_on_every_replica(tmp_path, logical_devices, n_replicas):
    values = awkward_values()
    Checkpointer(tmp_path).save(1, variables_of(values), STATE)
    strategy = tf.distribute.MirroredStrategy(logical_devices[:n_replicas])
    with strategy.scope():
        distributed = zeros_like(values)
    Checkpointer(tmp_path).restore(distributed)
    for name, value in values.items():
        for copy in strategy.experimental_local_results(distributed[name]):
            assert copy.numpy().tobytes() == value.tobytes(), name
    Checkpointer(tmp_path / "again").save(1, distributed, STATE)
    manifests = [
        (folder / "step-00000001" / "manifest.json").read_bytes()
        for folder in (tmp_path, tmp_path / "again")
    ]
    assert manifests[0] == manifests[1]


def test_a_per_replica_sum_is_refused(tmp_path, logical_devices):
    with tf.distribute.MirroredStrategy(logical_devices[:2]).scope():
        total = tf.Variable(
            0.0,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )
    with pytest.raises(ValueError, match="different value on each replica"):
        Checkpointer(tmp_path).save(1, {"total": total}, {})


def test_keras_model_and_optimizer_continue_exactly(tmp_path, logical_devices):
    def build():
        keras.utils.set_random_seed(0)
        with tf.distribute.MirroredStrategy(logical_devices[:2]).scope():
            model = keras.Sequential([keras.Input([4]), keras.layers.Dense(3, dtype="bfloat16")])
            optimizer = keras.optimizers.AdamW(1e-2)
            optimizer.build(model.trainable_variables)
        variables = [*model.variables, *optimizer.variables]
        return model, optimizer, {f"{i:04d}": v for i, v in enumerate(variables)}

    def step(model, optimizer):
        for variable in model.trainable_variables:
            variable.value.assign_add(tf.ones_like(variable.value) * 0.125)
        optimizer.iterations.assign_add(1)

    model, optimizer, saved = build()
    step(model, optimizer)
    Checkpointer(tmp_path).save(1, saved, {})
    truth = {name: variable.numpy() for name, variable in saved.items()}
    _, optimizer, fresh = build()
    Checkpointer(tmp_path).restore(fresh)
    assert_same_bits(fresh, truth)
    assert int(optimizer.iterations.numpy()) == 1


def test_follow_yields_each_new_step_once_and_ends(tmp_path):
    writer, reader = Checkpointer(tmp_path, keep=2), Checkpointer(tmp_path)
    writer.save(1, one(1), {})
    script = iter([2, 3, None])
    is_finished = {"value": False}

    def sleep(_):
        step = next(script)
        if step is None:
            is_finished["value"] = True
        else:
            writer.save(step, one(step), {})

    seen = list(reader.follow(finished=lambda: is_finished["value"], sleep=sleep))
    assert seen == [1, 2, 3]
    waits = []
    assert list(reader.follow(after=3, timeout_seconds=12, sleep=waits.append)) == []
    assert waits == [5.0, 5.0, 5.0]


def test_follow_ignores_a_save_in_progress(tmp_path):
    staged = tmp_path / ".staging-step-00000001-abcd"
    staged.mkdir(parents=True)
    (staged / "manifest.json").write_text("{}")
    (tmp_path / "step-00000002").mkdir()
    assert list(Checkpointer(tmp_path).follow(timeout_seconds=0)) == []
    assert staged.exists(), "a reader must not clean up behind a writer"


def test_hostile_manifest_reads_nothing_outside(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, one(1), {})
    manifest = tmp_path / "step-00000001" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"]["../../../etc/passwd"] = content["files"]["state.json"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(CheckpointDamaged, match="does not describe"):
        checkpointer.restore(one(0))


def forge(folder: Path, name: str, content: bytes) -> None:
    """Replaces a file of a checkpoint and makes its manifest fit."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = {"sha256": hashlib.sha256(content).hexdigest(), "n_bytes": len(content)}
    manifest["files"][name] = digest
    (folder / "manifest.json").write_text(json.dumps(manifest))


def array_bytes(value: np.ndarray, **options) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, value, **options)
    return out.getvalue()


def npz_bytes(value: np.ndarray, **options) -> bytes:
    """As the array of the variable, in a sound archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("w.npy", array_bytes(value, **options))
    return out.getvalue()


def tensor_bytes(**fields) -> bytes:
    """A file of the variable whose header tells something else."""
    entry = {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]} | fields
    header = json.dumps({"w": entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4000)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", b'{"state": {}, "variables": []}'),
        ("state.json", b"[" * 100_000),
        ("state.json", b"\xff{}"),
        ("variables.safetensors", b"no archive"),
        ("variables.safetensors", b"\xff" * 8 + b"{}"),
        ("variables.safetensors", tensor_bytes(shape=[10**9])),
        ("variables.safetensors", tensor_bytes(data_offsets=[0, 2**60])),
        ("variables.safetensors", tensor_bytes(data_offsets=[10**9, 10**9 + 4000])),
        ("variables.npz", b"no archive"),
        ("variables.npz", npz_bytes(np.zeros([10**7], np.int8))),
        ("variables.npz", npz_bytes(np.array([print] * 1000), allow_pickle=True)),
    ],
)
def test_a_forged_checkpoint_is_refused_and_runs_nothing(tmp_path, name, content):
    Checkpointer(tmp_path).save(1, one(1), {})
    if name == "variables.npz":
        as_an_earlier_version(tmp_path / "step-00000001")
    forge(tmp_path / "step-00000001", name, content)
    variables = one(0)
    with pytest.raises(CheckpointDamaged, match="was not written by this program"):
        Checkpointer(tmp_path).restore(variables)
    assert not variables["w"].numpy().any()


def test_saving_does_not_stop_training(tmp_path):
    """While a thread writes, the variables change; what is saved are the values of before."""
    variable, compiled = tf.Variable(np.full([1000], 1.0, np.float32)), tf.Variable(np.ones([9]))
    saved = {"w": variable, "compiled": compiled}
    checkpointer, may_write, written = Checkpointer(tmp_path), threading.Event(), []

    def first():
        assert may_write.wait(60)
        written.append(variable.numpy()[0])

    with checkpointer:
        checkpointer.save_later(1, saved, {"step": 1}, first)
        variable.assign_add(tf.ones([1000]))
        tf.function(lambda: compiled.assign_add(tf.ones([9], compiled.dtype)), jit_compile=True)()
        assert checkpointer.steps() == []
        may_write.set()
    assert written == [2.0] and compiled.numpy()[0] == 2.0
    fresh = {"w": tf.Variable(tf.zeros([1000])), "compiled": tf.Variable(np.zeros([9]))}
    assert checkpointer.restore(fresh) == {"step": 1}
    assert set(fresh["w"].numpy()) == {1.0} and set(fresh["compiled"].numpy()) == {1.0}


def test_a_failed_save_is_told_by_the_next_one_or_at_the_end(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    checkpointer = Checkpointer(tmp_path / "file" / "checkpoints")
    checkpointer.save_later(1, one(1), {})
    with pytest.raises(CheckpointNotSaved, match="step 1"):
        checkpointer.save_later(2, one(2), {})
    with pytest.raises(CheckpointNotSaved, match="step 3"), checkpointer:
        checkpointer.save_later(3, one(3), {})
