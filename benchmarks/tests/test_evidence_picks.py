"""What was picked, on a pool of six rows that can be counted by eye."""

import json

import numpy as np
import pytest

from benchmarks.evidence import picks
from benchmarks.evidence.picks import PoolTruth, concept_of, describe_picks
from jest_tf.monitoring.picks_log import UNKNOWN_ID, Picks, PicksLog

POOL = [
    {"id": 10, "key": "noto/1F44D", "caption": "thumbs up", "noise": "clean"},
    {"id": 11, "key": "openmoji/1F44D-1F3FB", "caption": "thumbs up", "noise": "clean"},
    {"id": 12, "key": "noto/1F408", "caption": "cat", "noise": "clean"},
    {"id": 13, "key": "noto/1F408", "caption": "a boat", "noise": "shuffled"},
    {"id": 14, "key": "icons/cat", "caption": "cat", "noise": "icon"},
    {"id": 15, "key": "noto/1F415", "caption": "dog", "noise": "bad_image"},
]
CURATED = [{"id": 0, "key": "noto/1F408", "captions": ["cat", "kitty"]}]


@pytest.fixture
def truth(tmp_path):
    for name, rows in (("pool", POOL), ("curated", CURATED)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return PoolTruth(str(tmp_path))


def test_concepts_know_neither_vendors_nor_skin_tones():
    assert concept_of("noto/1F44D") == concept_of("openmoji/1F44D-1F3FB")
    assert concept_of("noto/1F468-1F3FE-200D-2695") == "1F468-200D-2695"
    assert concept_of("icons/cat") == "cat"
    assert concept_of("noto/1F3FB") == "1F3FB", "the skin tone by itself is a concept"


def test_description_counted_by_hand(truth):
    found = truth.describe(np.array([10, 11, 12, 12, 13, UNKNOWN_ID]))
    assert found["n"] == 5
    assert found["shares"] == {"bad_image": 0, "clean": 0.8, "icon": 0, "shuffled": 0.2}
    assert (found["distinct"], found["concepts"]) == (4, 2)
    assert found["pair_seen"] == pytest.approx(2 / 5)  # row 12 twice
    assert found["image_seen"] == pytest.approx(3 / 5)  # and row 13, whose caption is another's
    assert truth.describe(np.array([UNKNOWN_ID])) == {"n": 0}


def test_the_pool_is_what_picking_blindly_gives(truth):
    pool = truth.pool()
    assert (pool["n"], pool["distinct"], pool["concepts"]) == (6, 6, 4)
    assert picks.clean(pool) == pytest.approx(0.5)
    assert picks.broken(pool) == pytest.approx(2 / 6)


def test_windows_and_what_comes_after_warmup(truth, tmp_path, monkeypatch):
    monkeypatch.setattr(picks, "RECENT_PICKS", 3)
    log = PicksLog(tmp_path / "picks", sub_batch=2)
    for step, ids in enumerate(([13, 15], [10, 11], [10, 12], [12, 12], [14, 14]), start=1):
        log.write(step, np.array(ids))
    log.close()
    found = describe_picks(Picks(tmp_path / "picks"), truth, every=2, warmup_steps=1)
    assert [w["step"] for w in found["windows"]] == [2, 4, 5]
    assert [w["n"] for w in found["windows"]] == [4, 4, 2]
    assert [w["distinct_so_far"] for w in found["windows"]] == [4, 5, 6]
    assert picks.broken(found["windows"][0]) == 0.5
    # The last three picks: 15 10 11; 12 12 12; 12 14 14.
    assert [w["recent_concepts"] for w in found["windows"]] == [2, 1, 2]
    assert picks.broken(found["after_warmup"]) == 0
    assert picks.broken(found["all"]) == pytest.approx(0.2)


def test_rejection_by_hand():
    # Of 100 loaded, 40 are broken; 20 are picked, 2 of them broken: 38 of 40 broken are rejected,
    # and 38 of the 80 rejected are broken.
    assert picks.rejected(0.1, 0.4, 0.8) == pytest.approx(38 / 40)
    assert picks.rejected_precision(0.1, 0.4, 0.8) == pytest.approx(38 / 80)
    assert picks.rejected(0.4, 0.4, 0.8) == pytest.approx(0.8), "blind: the filter ratio"
    assert picks.rejected_precision(0.4, 0.4, 0.8) == pytest.approx(0.4), "blind: the pool's share"


def test_the_shipped_pool_is_as_its_readme_says(pool_truth):
    pool = pool_truth.pool()
    assert pool["n"] == 60_000
    assert pool["shares"]["clean"] == 0.3
    assert picks.broken(pool) == pytest.approx(0.4)
