"""Crossings, readings and means against numbers worked out by hand."""

import math

import pytest

from benchmarks.evidence.curves import Mean, Reading, mean_of, reached_at, value_at


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (0.25, 150.0),  # half way from .2 at 100 to .3 at 200
        (0.2, 100.0),
        (0.31, 225.0),  # .3 at 200, .34 at 300: a quarter of the way
        (0.35, None),
        (-1.0, 0.0),
    ],
)
def test_a_rising_curve_is_crossed_once(target, expected):
    found = reached_at([0, 100, 200, 300], [0.0, 0.2, 0.3, 0.34], target)
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_crossing_that_does_not_last_does_not_count():
    # Above .3 at 100, below at 200, above for good from 250 on.
    assert reached_at([0, 100, 200, 300], [0.0, 0.4, 0.2, 0.4], 0.3) == pytest.approx(250)


def test_a_curve_that_ends_below_has_not_reached():
    assert reached_at([0, 100, 200], [0.0, 0.5, 0.29], 0.3) is None


def test_value_at_a_budget():
    x, y = [0, 10, 30], [0.0, 1.0, 2.0]
    assert value_at(x, y, 5) == Reading(0.5, False)
    assert value_at(x, y, 15) == Reading(1.25, False)
    assert value_at(x, y, 30) == Reading(2.0, False)
    assert value_at(x, y, 31) == Reading(2.0, True)
    assert value_at(x, y, 30.02) == Reading(2.0, False), "rounding is not an early end"


def test_mean_and_standard_error():
    # Deviations -2, 0, 2: variance 8 / 2 = 4, error 2 / sqrt(3).
    assert mean_of([1.0, 3.0, 5.0]) == Mean(3.0, pytest.approx(2 / math.sqrt(3)), 3)
    assert mean_of([7.0]) == Mean(7.0, None, 1)
    assert mean_of([]) is None


def test_beyond_noise_is_two_errors():
    assert Mean(2.1, 1.0, 5).beyond_noise
    assert Mean(-2.1, 1.0, 5).beyond_noise
    assert not Mean(1.9, 1.0, 5).beyond_noise
    assert not Mean(9.0, None, 1).beyond_noise, "one seed decides nothing"
