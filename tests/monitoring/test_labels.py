"""Shares of known labels among the picks, against counting by hand."""

import collections
import json
from pathlib import Path

import numpy as np
import pytest

from examples.emoji import builder as emoji
from jest_tf.data.manifest import About
from jest_tf.errors import UserError
from jest_tf.monitoring.labels import (
    UNLABELLED,
    Labels,
    keep_about,
    read_labels,
    run_about,
    run_labels,
    windows,
)
from jest_tf.monitoring.picks_log import Picks, PicksLog

POOL = Path(__file__).resolve().parents[2] / "data" / "emoji" / "pool.jsonl"


def test_shares_equal_counting_one_by_one():
    rng = np.random.default_rng(0)
    kinds = ["clean", "shuffled", "icon", "truncated"]
    table = {int(i) * 7 - 100: kinds[rng.integers(4)] for i in range(200)}
    ids = rng.integers(-200, 1500, [10, 30])
    counted = collections.Counter(table.get(int(i), UNLABELLED) for i in ids.ravel())
    labels = Labels(table, {"shuffled", "truncated", "bad_image"})
    shares = labels.shares(ids)
    assert shares == pytest.approx({kind: n / 300 for kind, n in counted.items()})
    assert sum(shares.values()) == pytest.approx(1)
    assert labels.noisy_share(shares) == pytest.approx(
        (counted["shuffled"] + counted["truncated"]) / 300
    )


def test_no_labels_and_no_ids():
    assert Labels({}).shares(np.array([1, 2])) == {UNLABELLED: 1.0}
    assert Labels({1: "clean"}).shares(np.zeros([0], np.int64)) == {"clean": 0.0}


def test_windows_of_a_run(tmp_path):
    log = PicksLog(tmp_path, sub_batch=2)
    for step, ids in enumerate([[1, 2], [2, 2], [3, 4], [4, 9], [1, 1]], start=1):
        log.write(step, np.array(ids))
    log.close()
    labels = Labels({1: "clean", 2: "shuffled", 3: "clean", 4: "icon"}, {"shuffled"})
    first, second, third = windows(Picks(tmp_path), labels, n_steps=2)
    assert (first.first_step, first.last_step, first.n_picks) == (1, 2, 4)
    assert (first.shares["clean"], first.noisy) == (0.25, 0.75)
    assert (first.n_distinct, first.n_distinct_so_far) == (2, 2)
    assert second.shares == {"clean": 0.25, "icon": 0.5, "shuffled": 0.0, UNLABELLED: 0.25}
    assert (second.n_distinct, second.n_distinct_so_far) == (3, 5)
    assert (third.last_step, third.n_picks, third.n_distinct_so_far) == (5, 2, 5)


def test_lost_records_do_not_count(tmp_path):
    log = PicksLog(tmp_path, sub_batch=2)
    log.write(1, np.array([1, 1]))
    log.close()
    PicksLog(tmp_path, sub_batch=2, start_step=3).close()
    (window,) = windows(Picks(tmp_path), Labels({1: "clean"}), n_steps=10)
    assert (window.n_picks, window.shares, window.last_step) == (2, {"clean": 1.0}, 3)


def test_the_pool_holds_what_its_readme_says():
    rows = [json.loads(line) for line in POOL.read_text(encoding="utf-8").splitlines()]
    labels = Labels({row["id"]: row["noise"] for row in rows}, emoji.NOISY)
    shares = labels.pool_shares()
    assert shares["clean"] == pytest.approx(0.30, abs=0.001)
    assert labels.noisy_share(shares) == pytest.approx(0.40, abs=0.001)
    assert set(shares) >= emoji.NOISY


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_a_run_keeps_what_its_data_say_about_themselves(tmp_path):
    rows = [
        {"id": 5, "label": "blurred", "noisy": True},
        {"id": -3, "label": "clean", "noisy": False},
    ]
    labels = write_rows(tmp_path / "labels.jsonl", *rows)
    keep_about(About(("CC0",), ("Cats only",), (labels,)), tmp_path)
    assert run_about(tmp_path) == {"licences": ["CC0"], "limits": ["Cats only"]}
    kept = run_labels(tmp_path)
    assert kept.shares(np.array([5, 5, -3, 7])) == {"blurred": 0.5, "clean": 0.25, UNLABELLED: 0.25}
    assert kept.noisy == {"blurred"}


def test_data_without_notes_leave_no_file(tmp_path):
    keep_about(About(), tmp_path)
    assert run_labels(tmp_path) is None and run_about(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_is_no_label_is_named(tmp_path):
    sound = {"id": 1, "label": "blurred", "noisy": True}
    for bad in ({"id": 2}, {"id": "x", "label": "a", "noisy": True}, sound | {"noisy": False}):
        with pytest.raises(UserError, match=r"labels\.jsonl line 2"):
            read_labels([write_rows(tmp_path / "labels.jsonl", sound, bad)])
    with pytest.raises(UserError, match=r"none\.jsonl cannot be read"):
        read_labels([str(tmp_path / "none.jsonl")])
