"""Picks: any step at a known place; a resumed file equals an uninterrupted one."""

import numpy as np
import pytest

from jest_tf.errors import UserError
from jest_tf.monitoring.picks_log import UNKNOWN_ID, Picks, PicksLog

B = 4


def ids_of(step: int) -> np.ndarray:
    return np.arange(B) * 10**17 + step - 5


def write_steps(folder, first, last, every=1, start_step=None):
    log = PicksLog(folder, B, every, first - 1 if start_step is None else start_step)
    for step in range(first, last + 1):
        if log.wants(step):
            log.write(step, ids_of(step))
    log.sync()
    log.close()


def test_any_step_is_read_back(tmp_path):
    write_steps(tmp_path, 1, 7)
    picks = Picks(tmp_path)
    assert (picks.last_step, picks.sub_batch, list(picks.steps())) == (7, B, list(range(1, 8)))
    for step in picks.steps():
        np.testing.assert_array_equal(picks.ids(step), ids_of(step))
    raw = np.fromfile(tmp_path / "ids.bin", "<i8").reshape(-1, B)
    np.testing.assert_array_equal(raw[4], ids_of(5))


def test_every_third_step(tmp_path):
    write_steps(tmp_path, 1, 10, every=3)
    picks = Picks(tmp_path)
    assert list(picks.steps()) == [3, 6, 9]
    np.testing.assert_array_equal(picks.window(4, 9), [ids_of(6), ids_of(9)])
    np.testing.assert_array_equal(picks.window(1, 3), [ids_of(3)])
    for first, last in ((0, 3), (5, 4), (1, 10)):
        with pytest.raises(IndexError):
            picks.window(first, last)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("saved_at", [0, 4, 6])
def test_resume_equals_no_interruption(tmp_path, every, saved_at):
    write_steps(tmp_path / "whole", 1, 12, every)
    write_steps(tmp_path / "resumed", 1, 8, every)
    with open(tmp_path / "resumed" / "ids.bin", "ab") as file:
        file.write(b"half a record")
    write_steps(tmp_path / "resumed", saved_at + 1, 12, every)
    whole, resumed = ((tmp_path / n / "ids.bin").read_bytes() for n in ("whole", "resumed"))
    assert whole == resumed


def test_lost_records_are_marked_and_later_ones_stay_in_place(tmp_path):
    write_steps(tmp_path, 1, 2)
    write_steps(tmp_path, 5, 6)
    picks = Picks(tmp_path)
    assert (picks.window(3, 4) == UNKNOWN_ID).all()
    np.testing.assert_array_equal(picks.ids(6), ids_of(6))


def test_a_new_run_starts_an_empty_file(tmp_path):
    write_steps(tmp_path, 1, 3)
    log = PicksLog(tmp_path, B + 1)
    assert Picks(tmp_path).last_step == 0
    assert list(Picks(tmp_path).steps()) == []
    log.close()


def test_another_size_is_refused_on_resume(tmp_path):
    write_steps(tmp_path, 1, 3)
    with pytest.raises(UserError, match=r"picks_every_steps and selection\.sub_batch"):
        PicksLog(tmp_path, B, every_steps=2, start_step=2)
    assert Picks(tmp_path).last_step == 3


def test_a_step_out_of_order_or_of_another_size_is_refused(tmp_path):
    log = PicksLog(tmp_path, B)
    log.write(1, ids_of(1))
    for step, ids in ((1, ids_of(1)), (3, ids_of(3)), (2, ids_of(2)[:2])):
        with pytest.raises(ValueError, match="expected step 2"):
            log.write(step, ids)
    log.close()


@pytest.mark.parametrize("header", [None, "{half", "{}", '{"format": 9, "sub_batch": 1}'])
def test_unreadable_header_is_named(tmp_path, header):
    if header is not None:
        (tmp_path / "header.json").write_text(header)
    with pytest.raises(UserError, match=r"header\.json"):
        Picks(tmp_path)
