"""`--all_records`: what is found, the files that are written, and the super-batch it asks for."""

import json

import numpy as np
import pytest
import tensorflow as tf
from small_run import small_data

from jest_tf.config import base_config
from jest_tf.data import doctor
from jest_tf.data.manifest import Manifest, Shard
from jest_tf.preflight.data_checks import check_records, spare_super_batch


def config_of(tmp_path, n_bad: int):
    """100 records, of which the first n_bad were overwritten with something else."""
    data = small_data(tmp_path, 12)
    good = list(tf.data.TFRecordDataset(Manifest.load(data).shards[0].path).as_numpy_iterator())
    path = str(tmp_path / "some_bad.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for n in range(100):
            writer.write(b"\xff\xffno example" if n < n_bad else good[n % 12])
    source = Manifest.load(data).sources
    Manifest("squares", source, (Shard(path, 100),)).save(str(tmp_path / "bad.json"))
    c = base_config()
    c.data.train = str(tmp_path / "bad.json")
    c.data.n_lanes = 4
    c.selection.sub_batch = c.selection.super_batch = 32
    return c


def test_a_file_in_the_place_of_the_report_is_told_before_the_work(tmp_path, monkeypatch):
    config = config_of(tmp_path, n_bad=0)
    monkeypatch.setattr(doctor, "examine", None)
    with pytest.raises(tf.errors.OpError, match="bad.json"):
        check_records(config, 1, config.data.train)


def test_bad_records_and_what_a_uniform_run_needs(tmp_path):
    section = check_records(config_of(tmp_path, n_bad=2), 1, str(tmp_path / "report"))
    rows = dict(section.rows)
    assert rows["squares"].startswith("100 records; 2 ")
    needed = spare_super_batch(32, 0.02, 4)
    assert len(section.problems) == 1
    assert f"--config.selection.super_batch={needed}," in section.problems[0]
    assert json.loads((tmp_path / "report" / "data_report.json").read_text())["bad"] == 2
    assert "<img " in (tmp_path / "report" / "data_report.html").read_text()


def test_enough_in_reserve_or_nothing_bad_is_no_problem(tmp_path):
    config = config_of(tmp_path, n_bad=2)
    config.selection.super_batch = 40
    assert check_records(config, 1, str(tmp_path / "a")).problems == []
    clean = config_of(tmp_path, n_bad=0)
    assert check_records(clean, 1, str(tmp_path / "b")).problems == []


def test_more_than_the_bound_is_a_problem(tmp_path):
    section = check_records(config_of(tmp_path, n_bad=20), 1, str(tmp_path / "report"))
    assert "20 of 100 records (20.0%)" in section.problems[0]


def test_the_spare_is_what_chance_asks_for():
    rng = np.random.default_rng(0)
    for sub_batch, share, multiple in ((128, 0.01, 8), (4096, 0.05, 64), (32, 0.2, 1)):
        size = spare_super_batch(sub_batch, share, multiple)
        assert size % multiple == 0
        usable = size - rng.binomial(size, share, size=20_000)
        assert (usable < sub_batch).mean() < 1e-3
        smaller = size - max(multiple, int(0.08 * size))
        assert (smaller - rng.binomial(smaller, share, size=20_000) < sub_batch).mean() > 1e-3
    assert spare_super_batch(128, 0.0) == 128
