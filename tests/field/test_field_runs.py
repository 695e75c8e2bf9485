"""Situations in which users started, stopped and moved runs; each test makes its inputs anew."""

import json
import shutil

import pytest
from ml_collections import ConfigDict
from small_run import ONE_BLOCK, WORDS, small_data

from jest_tf.config import base_config
from jest_tf.errors import UserError
from jest_tf.monitoring.metrics_log import read_metrics
from jest_tf.training import loop


def small_config(folder, **fields):
    """A run of four steps on twelve one-coloured squares."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "words.txt").write_text("\n".join(WORDS) + "\n")
    c = base_config()
    c.total_steps, c.optimizer.warmup_steps = 4, 1
    c.data.train, c.data.data_dir = small_data(folder), str(folder / "prepared")
    c.data.vocab = str(folder / "words.txt")
    c.data.image_size = c.model.image_size = 8
    c.data.n_tokens, c.data.n_lanes, c.model.patch_size, c.model.variant = 4, 1, 4, "nano"
    c.model.sizes = ConfigDict(ONE_BLOCK)
    c.selection.super_batch = c.selection.sub_batch = c.selection.n_chunks = 4
    c.strategy.jit_compile = False
    c.log.every_steps = c.log.samples_every_steps = 2
    c.checkpoint.every_minutes = 0
    for name, value in fields.items():
        c.update_from_flattened_dict({name.replace("__", "."): value})
    return c


def test_a_failed_start_does_not_block_the_corrected_command(tmp_path):
    good = small_config(tmp_path / "data")
    (tmp_path / "other.txt").write_text("\n".join([*WORDS, "more"]) + "\n")
    run = tmp_path / "run"
    for field, value in (
        ("data.train", str(tmp_path / "dta")),
        ("data.vocab", str(tmp_path / "wrods.txt")),
        ("reference.workdir", str(tmp_path / "no_run")),
    ):
        wrong = small_config(tmp_path / "data", data__vocab=str(tmp_path / "other.txt"))
        wrong.selection.policy = "joint" if field == "reference.workdir" else "uniform"
        wrong.update_from_flattened_dict({field: value})
        with pytest.raises(UserError, match=value):
            loop.train(wrong, str(run))
        assert [path.name for path in run.iterdir()] == ["run.lock"], field
    assert loop.train(good, str(run)) == 0
    assert (run / "vocab.txt").read_text() == (tmp_path / "data" / "words.txt").read_text()


def test_moved_data_and_a_moved_run_go_on(tmp_path, monkeypatch):
    config = small_config(tmp_path / "data", total_steps=2)
    run = tmp_path / "run"
    assert loop.train(config, str(run)) == 0
    shutil.move(tmp_path / "data", tmp_path / "moved")
    shutil.move(run, tmp_path / "elsewhere")
    config.data.train = "moved/data.json"
    config.data.vocab = str(tmp_path / "moved" / "words.txt")
    config.total_steps = 4
    monkeypatch.chdir(tmp_path)
    assert loop.train(config, "elsewhere") == 0
    assert json.loads((tmp_path / "elsewhere" / "config.json").read_text())["total_steps"] == 4


def test_other_data_at_the_same_path_are_refused(tmp_path):
    config = small_config(tmp_path / "data", total_steps=2)
    assert loop.train(config, str(tmp_path / "run")) == 0
    small_data(tmp_path / "data", n=13)
    config.total_steps = 4
    with pytest.raises(UserError, match="(?s)read something else.*data: .* there"):
        loop.train(config, str(tmp_path / "run"))


def test_a_finished_run_is_made_longer(tmp_path, capfd):
    config = small_config(tmp_path / "data", total_steps=2, selection__super_batch=16)
    assert loop.train(config, str(tmp_path / "run")) == 0
    told = capfd.readouterr().err
    assert "--config.total_steps" in told
    assert "WARNING: a step loads 16 pairs, and there are 12" in told
    config.total_steps = 6
    assert loop.train(config, str(tmp_path / "run")) == 0
    assert "Made longer: 2 steps before, 6 now" in capfd.readouterr().err
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 4, 6]
