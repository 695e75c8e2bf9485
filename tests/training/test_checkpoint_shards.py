"""Checkpoints in several files: by a bound, each worker its share, all or nothing."""

import hashlib
import json
import threading

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from jest_tf.training.run import shards
from jest_tf.training.run.checkpoint import (
    CheckpointDamaged,
    Checkpointer,
    CheckpointMismatch,
    CheckpointNotSaved,
)
from jest_tf.training.run.shards import Group

VALUES = {f"learner/{i:02d}": np.arange(i, i + 1000, dtype=np.float32) for i in range(5)}
SIZE = 4_000  # bytes of each


@pytest.fixture(autouse=True)
def two_in_a_file(monkeypatch):
    monkeypatch.setattr(shards, "MAX_FILE_BYTES", 2 * SIZE)


def variables_of(values: dict[str, np.ndarray]) -> dict[str, tf.Variable]:
    return {name: tf.Variable(value) for name, value in values.items()}


def restored(directory, step=None) -> dict[str, np.ndarray]:
    """The step of the state, under its own name, and all values."""
    variables = variables_of({name: np.zeros_like(value) for name, value in VALUES.items()})
    state = Checkpointer(directory).restore(variables, step)
    return {name: v.numpy() for name, v in variables.items()} | {"step": state["step"]}


def save_by(directory, step: int, *ranks: int, size: int = 2, token: str = "one") -> None:
    """The save of these worker processes, as threads, each with a Checkpointer of its own."""
    savers = [Checkpointer(directory, group=Group(rank, size, token)) for rank in ranks]
    for saver in savers:
        saver.save_later(step, variables_of(VALUES), {"step": step})
    for saver in savers:
        saver.wait()


def test_files_have_the_layout_of_hugging_face(tmp_path):
    Checkpointer(tmp_path).save(1, variables_of(VALUES), {"step": 1})
    folder = tmp_path / "step-00000001"
    index = json.loads((folder / "variables.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 5 * SIZE
    files = [f"variables-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert sorted(path.name for path in folder.glob("*.safetensors")) == files
    for name, value in VALUES.items():
        tensors = safetensors.numpy.load_file(folder / index["weight_map"][name])
        assert tensors[name].tobytes() == value.tobytes()


def test_all_that_several_files_hold_is_restored(tmp_path):
    Checkpointer(tmp_path).save(1, variables_of(VALUES), {"step": 1})
    found = restored(tmp_path)
    assert found.pop("step") == 1
    np.testing.assert_equal(found, VALUES)
    with pytest.raises(CheckpointMismatch, match="learner/04"):
        Checkpointer(tmp_path).restore(
            {n: v for n, v in variables_of(VALUES).items() if "4" not in n}
        )


@pytest.mark.parametrize("size", [2, 3, 7])
def test_each_worker_writes_its_share_and_one_process_reads_all(tmp_path, size):
    save_by(tmp_path, 3, *reversed(range(size)), size=size)
    found = restored(tmp_path)
    assert found.pop("step") == 3
    np.testing.assert_equal(found, VALUES)


def test_no_worker_copies_what_another_writes():
    group = [shards.Share.of(variables_of(VALUES), Group(rank, 2, "one")) for rank in range(2)]
    names = [{n for values in share.values.values() for n in values} for share in group]
    assert not names[0] & names[1] and names[0] | names[1] == set(VALUES)


def test_a_small_model_is_written_by_the_chief_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAX_FILE_BYTES", 5 * SIZE)
    save_by(tmp_path, 1, 1)
    assert not list(tmp_path.iterdir())
    save_by(tmp_path, 1, 0)
    assert (tmp_path / "step-00000001" / "variables.safetensors").exists()


def test_without_a_share_nothing_is_saved_and_the_last_one_stays(tmp_path, monkeypatch):
    save_by(tmp_path, 1, 0, 1)
    save_by(tmp_path, 2, 1, token="another start")
    monkeypatch.setattr(shards, "PATIENCE", 0.2)
    with pytest.raises(CheckpointNotSaved, match="worker process 1 did not write its share"):
        save_by(tmp_path, 2, 0)
    assert Checkpointer(tmp_path).steps() == [1]
    assert restored(tmp_path)["step"] == 1


def test_the_error_that_ends_a_run_is_not_hidden_by_a_save_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHORT_PATIENCE", 0.2)
    with pytest.raises(ZeroDivisionError), Checkpointer(tmp_path, group=Group(0, 2, "a")) as saver:
        saver.save_later(1, variables_of(VALUES), {})
        raise ZeroDivisionError
    assert Checkpointer(tmp_path).steps() == []


def test_the_chief_takes_no_half_written_note(tmp_path):
    waiting = threading.Thread(target=save_by, args=(tmp_path, 1, 0))
    staged = tmp_path / ".staging-step-00000001-one"
    staged.mkdir()
    (staged / "share-00001.json").write_text('{"token": "one", "fi')
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    (staged / "share-00001.json").unlink()
    save_by(tmp_path, 1, 1)
    waiting.join()
    assert restored(tmp_path)["step"] == 1


@pytest.mark.parametrize(
    "name", ["variables-00002-of-00003.safetensors", "variables.safetensors.index.json"]
)
def test_damage_to_any_file_is_noticed(tmp_path, name):
    checkpointer = Checkpointer(tmp_path)
    for step in (1, 2):
        checkpointer.save(step, variables_of(VALUES), {"step": step})
    path = tmp_path / "step-00000002" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert restored(tmp_path)["step"] == 1
    with pytest.raises(CheckpointDamaged, match=name):
        restored(tmp_path, step=2)


def test_an_index_that_points_elsewhere_is_refused(tmp_path):
    folder = tmp_path / "step-00000001"
    Checkpointer(tmp_path).save(1, variables_of(VALUES), {"step": 1})
    index = folder / "variables.safetensors.index.json"
    forged = index.read_text().replace("variables-00001-of-00003", "../variables-00001-of-00003")
    index.write_text(forged)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][index.name] = {
        "sha256": hashlib.sha256(forged.encode()).hexdigest(),
        "n_bytes": len(forged),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointDamaged, match="not written by this program"):
        restored(tmp_path)
