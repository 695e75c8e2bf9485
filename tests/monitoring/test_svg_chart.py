"""Charts: points at the right places, round ticks, bounded size."""

import re

import numpy as np
import pytest

from jest_tf.monitoring.svg_chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MAX_POINTS,
    RIGHT,
    WIDTH,
    Line,
    chart,
    nice_ticks,
    thin,
)


def points(svg: str) -> list[tuple[float, float]]:
    (path,) = re.findall(r'points="([^"]*)"', svg)
    return [tuple(map(float, pair.split(","))) for pair in path.split()]


def test_a_line_goes_from_corner_to_corner():
    (x0, y0), (x1, y1) = points(chart("t", "steps", [Line("a", [0, 100], [0, 10])]))
    assert (x0, y0) == (LEFT, HEIGHT - BOTTOM)
    assert (x1, y1) == (WIDTH - RIGHT, pytest.approx(30, abs=1))


def test_points_that_are_not_finite_are_left_out():
    svg = chart("t", "steps", [Line("a", [1, 2, 3, 4], [1, np.nan, np.inf, 2])])
    assert len(points(svg)) == 2 and "nan" not in svg
    assert chart("t", "steps", [Line("a", [1, 2], [np.nan, np.nan])]) == ""
    assert chart("t", "steps", []) == ""


def test_one_point_and_a_constant_are_drawn():
    assert "<circle" in chart("t", "steps", [Line("a", [10], [0.0])])
    ys = {y for _, y in points(chart("t", "steps", [Line("a", [1, 2], [0.5, 0.5])]))}
    assert len(ys) == 1


def test_many_points_are_thinned_and_peaks_stay():
    y = np.sin(np.arange(100_000) / 50)
    y[31_234], y[77_777] = 9, -9
    line = thin(Line("a", np.arange(100_000), y))
    assert len(line.x) <= MAX_POINTS
    assert (line.y.max(), line.y.min()) == (9, -9)
    assert (line.x[0], line.x[-1]) == (0, 99_999)
    assert (np.diff(line.x) > 0).all()


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, [0, 50, 100]),
        (0.1, 0.35, [0.1, 0.2, 0.3, 0.4]),
        (-3e9, 4e9, [-4e9, -2e9, 0, 2e9, 4e9]),
        (0, 1, [0, 0.5, 1]),
    ],
)
def test_ticks_are_round_and_cover(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_texts_are_escaped_and_several_lines_have_a_legend():
    svg = chart("<b>&", "steps", [Line("<i>", [1, 2], [1, 2]), Line("b", [1, 2], [1, 2], 9)])
    assert "<b>" not in svg and "<i>" not in svg and "&lt;i&gt;" in svg
    assert svg.count("<li>") == 2 and "--line-1" in svg


def test_shares_are_percent_from_zero():
    svg = chart("t", "steps", [Line("a", [1, 2], [0.2, 0.4])], is_share=True)
    assert "0%" in svg and "40%" in svg
