"""Shares of known labels among the picks, against counting by hand."""

import collections
import json
from pathlib import Path

import numpy as np
import pytest

from jest_tf.monitoring.labels import BROKEN, UNLABELLED, Labels, broken_share, windows
from jest_tf.monitoring.picks_log import Picks, PicksLog

POOL = Path(__file__).resolve().parents[2] / "data" / "emoji" / "pool.jsonl"


def test_shares_equal_counting_one_by_one():
    rng = np.random.default_rng(0)
    kinds = ["clean", "shuffled", "icon", "truncated"]
    table = {int(i) * 7 - 100: kinds[rng.integers(4)] for i in range(200)}
    ids = rng.integers(-200, 1500, [10, 30])
    counted = collections.Counter(table.get(int(i), UNLABELLED) for i in ids.ravel())
    shares = Labels(table).shares(ids)
    assert shares == pytest.approx({kind: n / 300 for kind, n in counted.items()})
    assert sum(shares.values()) == pytest.approx(1)
    assert broken_share(shares) == pytest.approx((counted["shuffled"] + counted["truncated"]) / 300)


def test_no_labels_and_no_ids():
    assert Labels({}).shares(np.array([1, 2])) == {UNLABELLED: 1.0}
    assert Labels({1: "clean"}).shares(np.zeros([0], np.int64)) == {"clean": 0.0}


def test_windows_of_a_run(tmp_path):
    log = PicksLog(tmp_path, sub_batch=2)
    for step, ids in enumerate([[1, 2], [2, 2], [3, 4], [4, 9], [1, 1]], start=1):
        log.write(step, np.array(ids))
    log.close()
    labels = Labels({1: "clean", 2: "shuffled", 3: "clean", 4: "icon"})
    first, second, third = windows(Picks(tmp_path), labels, n_steps=2)
    assert (first.first_step, first.last_step, first.n_picks) == (1, 2, 4)
    assert (first.clean, first.broken) == (0.25, 0.75)
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
    assert (window.n_picks, window.clean, window.last_step) == (2, 1.0, 3)


def test_the_pool_holds_what_its_readme_says():
    rows = [json.loads(line) for line in POOL.read_text(encoding="utf-8").splitlines()]
    shares = Labels({row["id"]: row["noise"] for row in rows}).pool_shares()
    assert shares["clean"] == pytest.approx(0.30, abs=0.001)
    assert broken_share(shares) == pytest.approx(0.40, abs=0.001)
    assert set(shares) >= BROKEN
