"""Workdirs: refuse another config field by field, one writer at a time, awkward paths and users."""

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from unprivileged import unprivileged

from jest_tf.config import base_config, differences
from jest_tf.errors import UserError
from jest_tf.training.run import workdir as workdir_module
from jest_tf.training.run.workdir import (
    MAY_DIFFER,
    open_workdir,
    read_config,
    stored_config,
)

CONFIG = {
    "name": "é run",
    "seed": 0,
    "total_steps": 10,
    "data": {"augment": ("flip",), "data_dir": "/a"},
    "strategy": {"kind": "default", "n_devices": 1},
    "reference": {},
    "optimizer": {"learning_rate": 1e-3},
}


def changed(**fields) -> dict:
    """CONFIG with dotted fields (written with __) replaced."""
    config = copy.deepcopy(CONFIG)
    for field, value in fields.items():
        *groups, name = field.split("__")
        inner = config
        for group in groups:
            inner = inner[group]
        inner[name] = value
    return config


def begun(path, config=None, inputs=None):
    """The workdir of a run that has saved a checkpoint."""
    with open_workdir(path, config or CONFIG) as workdir:
        workdir.claim(inputs or {"data": "a1"})
        (workdir.checkpoints / "step-00000001").mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize("name", ["plain", "with spaces/deep er", "ünï 中文"])
def test_creates_then_reopens(tmp_path, name):
    with open_workdir(tmp_path / name, CONFIG) as first:
        assert first.is_new
    begun(tmp_path / name)
    with open_workdir(str(tmp_path / name), CONFIG) as second:
        assert not second.is_new
        assert second.checkpoints == tmp_path / name / "checkpoints"
    assert read_config(tmp_path / name)["name"] == "é run"


def test_another_config_is_refused_field_by_field(tmp_path):
    begun(tmp_path)
    other = changed(seed=1, optimizer__learning_rate=0.1, data__augment=())
    other["new"] = {"field": 5}
    with pytest.raises(UserError) as raised:
        open_workdir(tmp_path, other)
    message = str(raised.value)
    for line in (
        "4 field(s) differ",
        "seed: 0 there, 1 now",
        "optimizer.learning_rate: 0.001 there, 0.1 now",
        "data.augment: ['flip'] there, [] now",
        "new.field: '(absent)' there, 5 now",
    ):
        assert line in message
    assert read_config(tmp_path)["seed"] == 0, "a refused config must not be written"
    open_workdir(tmp_path, CONFIG).close()  # and the lock is free again


def test_fields_that_may_differ_are_taken_over(tmp_path):
    begun(tmp_path)
    begun(tmp_path, changed(strategy__kind="mirrored", strategy__n_devices=4, data__data_dir="/b"))
    assert read_config(tmp_path)["strategy"] == {"kind": "mirrored", "n_devices": 4}
    assert all(reason for reason in MAY_DIFFER.values())


def test_until_a_checkpoint_is_saved_another_config_takes_over(tmp_path):
    with open_workdir(tmp_path, CONFIG) as workdir:
        workdir.claim({"data": "a1"})
    with open_workdir(tmp_path, changed(seed=1)) as workdir:
        assert workdir.is_new
        workdir.claim({"data": "b2"})
    assert read_config(tmp_path)["seed"] == 1


def test_what_lies_elsewhere_is_compared_by_content(tmp_path):
    config = changed(data__train="mine", reference__workdir="teacher")
    begun(tmp_path, config)
    moved = copy.deepcopy(config)
    moved["data"]["train"], moved["reference"]["workdir"] = "/else/mine", "/else/teacher"
    begun(tmp_path, moved)
    with pytest.raises(UserError, match="data: a1 there, b2 now"):
        begun(tmp_path, config, {"data": "b2"})
    moved["reference"]["workdir"] = ""
    with pytest.raises(UserError, match="reference.workdir: '/else/teacher' there, '' now"):
        open_workdir(tmp_path, moved)
    (tmp_path / "inputs.json").unlink()  # a run of an older version: only paths are known
    with pytest.raises(UserError, match="data.train: '/else/mine' there, 'mine' now"):
        open_workdir(tmp_path, config)


def test_a_run_may_be_made_longer_but_not_shorter(tmp_path):
    begun(tmp_path, CONFIG)
    with open_workdir(tmp_path, changed(total_steps=20)) as workdir:
        assert workdir.grown_from == 10
        workdir.claim({"data": "a1"})
    with open_workdir(tmp_path, changed(total_steps=20)) as workdir:
        assert workdir.grown_from == 0
    with pytest.raises(UserError, match="total_steps may only grow"):
        open_workdir(tmp_path, CONFIG)


def test_what_training_depends_on_may_not_differ():
    from jest_tf.config import base_config, flat

    fields = set(flat(base_config()))
    for pattern in set(MAY_DIFFER) - {"evals.*"}:  # evals is empty in the base config
        assert any(_matches(field, pattern) for field in fields), f"{pattern} is no field"
    free = {field for field in fields if any(_matches(field, pattern) for pattern in MAY_DIFFER)}
    fixed_groups = {field.split(".")[0] for field in fields - free}
    assert fixed_groups >= {"seed", "total_steps", "loss", "data", "model", "selection"}
    assert fixed_groups >= {"reference", "optimizer", "precision", "resolution"}
    assert not {field for field in free if field.split(".")[0] in ("model", "selection", "seed")}


def _matches(field: str, pattern: str) -> bool:
    return field == pattern or (pattern.endswith("*") and field.startswith(pattern[:-1]))


def test_differences_of_nested_dicts():
    found = differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}, "d": None})
    assert found == {"a.c": [2, "(absent)"], "d": ["(absent)", None]}


def test_second_run_on_one_workdir_is_refused(tmp_path):
    begun(tmp_path)
    with open_workdir(tmp_path, CONFIG):
        with pytest.raises(UserError, match=rf"in use by process {os.getpid()} on .*started 20"):
            open_workdir(tmp_path, CONFIG)
        # The other worker processes of the same run only compare.
        assert not open_workdir(tmp_path, CONFIG, is_writer=False).is_new
        with pytest.raises(UserError, match="seed"):
            open_workdir(tmp_path, changed(seed=3), is_writer=False)
    open_workdir(tmp_path, CONFIG).close()


HOLD_LOCK = """
import sys, time
from jest_tf.training.run.workdir import open_workdir
held = open_workdir(sys.argv[1], {})
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.process
def test_lock_of_a_killed_process_is_free_at_once(tmp_path):
    command = [sys.executable, "-c", HOLD_LOCK, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(UserError, match=f"process {holder.pid} "):
                open_workdir(tmp_path, CONFIG)
        finally:
            holder.kill()
    open_workdir(tmp_path, CONFIG).close()
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


def test_a_damaged_owner_file_is_no_obstacle(tmp_path):
    (tmp_path / "run.lock").write_bytes(b"\xff{half")
    with open_workdir(tmp_path, CONFIG):
        (tmp_path / "run.owner.json").write_bytes(b"\xff{half")
        with pytest.raises(UserError, match="in use by a process that has just started"):
            open_workdir(tmp_path, CONFIG)


def test_no_write_permission_is_one_clear_message():
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o555)
        for path in (folder, folder / "run"):
            with unprivileged(), pytest.raises(UserError, match="(?s)cannot be written.*denied"):
                open_workdir(path, CONFIG)
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("path", "match"), [("file", "cannot be written"), ("gs://b/run", "gcsfuse"), ("", "empty")]
)
def test_a_file_a_bucket_and_nothing_are_no_workdirs(tmp_path, monkeypatch, path, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=match):
        open_workdir(path, CONFIG)


def test_full_disk_at_the_start_is_one_clear_message(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workdir_module, "write_atomically", full)
    with pytest.raises(UserError, match="No space left on device"):
        begun(tmp_path)
    monkeypatch.undo()
    begun(tmp_path)


def test_unreadable_config_names_the_file(tmp_path):
    begun(tmp_path)
    (tmp_path / "config.json").write_text('{"half": ')
    with pytest.raises(UserError, match=r"config\.json cannot be read as JSON"):
        open_workdir(tmp_path, CONFIG)
    with pytest.raises(UserError, match="not the workdir of a run"):
        read_config(tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3", "holds no config of a run, but '3'"),
        ('{"seed": "one"}', "seed is 'one', a text; expected a number"),
        ('{"model": 5}', "model is '5', a number; expected a group of fields"),
        ('{"selection": {"sub_batch": true}}', "selection.sub_batch is 'True', a truth value"),
        ('{"data": {"augment": "flip"}}', "data.augment is 'flip', a text; expected a list"),
        ('{"evals": []}', r"evals is '\[\]', a list; expected a group"),
        ('{"model": {"init_bias": []}}', r"model.init_bias is '\[\]', a list; expected a number"),
    ],
)
def test_a_config_changed_by_hand_names_the_file_and_the_field(tmp_path, text, said):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=rf"config\.json.* {said}"):
        read_config(tmp_path)


@pytest.mark.parametrize("bias", [-10, "auto"])
def test_a_stored_bias_is_a_number_or_auto(tmp_path, bias):
    (tmp_path / "config.json").write_text(json.dumps({"model": {"init_bias": bias}}))
    assert read_config(tmp_path)["model"]["init_bias"] == bias


def test_environment_is_recorded_for_every_start(tmp_path):
    file = tmp_path / "environment.json"
    for n_earlier in range(3):
        begun(tmp_path)
        assert len(json.loads(file.read_text())["earlier"]) == n_earlier
    assert "earlier" not in json.loads(file.read_text())["earlier"][0]
    assert json.loads(file.read_text())["packages"]["tensorflow"].startswith("2.20")
    for damaged in ("[damaged", "[]", '{"earlier": 3}'):
        file.write_text(damaged)
        begun(tmp_path)
        assert json.loads(file.read_text())["earlier"] == []


def test_a_run_outlives_an_upgrade_that_added_fields(tmp_path):
    older = base_config().to_dict()
    del older["strategy"]["recompute"], older["reference"]["distillation"], older["log"]
    older["evals"] = {"mine": {"kind": "retrieval", "data": "x"}}
    begun(tmp_path, older)
    now = base_config().to_dict()
    with open_workdir(tmp_path, now) as workdir:
        workdir.claim({"data": "a1"})
    (tmp_path / "config.json").write_text(json.dumps(older))  # without a schema, as it was
    found = stored_config(tmp_path)
    assert found.reference.distillation == 0.0 and found.strategy.recompute is False
    assert found.evals.to_dict() == older["evals"]
    now["reference"]["distillation"] = 0.5
    with pytest.raises(UserError, match="reference.distillation: 0.0 there, 0.5 now"):
        open_workdir(tmp_path, now)


def test_a_run_of_a_newer_version_is_refused(tmp_path):
    begun(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["schema"] == 1
    (tmp_path / "config.json").write_text(json.dumps(content | {"schema": 2}))
    with pytest.raises(UserError, match="newer version .*schema 2"):
        open_workdir(tmp_path, CONFIG)
