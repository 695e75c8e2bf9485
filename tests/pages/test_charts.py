"""Charts: what is drawn, in which colours, and texts that could be markup."""

import re

import numpy as np
import pytest

from jest_tf.pages.charts import COLORS, GREY, Line, bar_chart, line_chart


def curves(svg: str) -> list[list[tuple[float, float]]]:
    """Points of every line that has a run's colour."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--line-\d\)', svg)
    return [
        [tuple(map(float, p.split())) for p in re.findall(r"[ML] ([-\d.]+ [-\d.]+)", path)]
        for path in paths
    ]


def test_a_line_rises_from_left_to_right():
    (points,) = curves(line_chart("t", "steps", "y", [Line("a", [0, 50, 100], [0, 1, 10])]).svg)
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y0 > y1 > y2, "an SVG counts from the top"
    assert (y0 - y2) == pytest.approx(10 * (y0 - y1), rel=1e-3)


def test_points_that_are_not_finite_are_left_out():
    chart = line_chart("t", "steps", "y", [Line("a", [1, 2, 3, 4], [1, np.nan, np.inf, 2])])
    assert len(curves(chart.svg)[0]) == 2 and "nan" not in chart.svg
    assert line_chart("t", "steps", "y", [Line("a", [1, 2], [np.nan, np.nan])]) is None
    assert line_chart("t", "steps", "y", []) is None


def test_one_point_a_constant_and_zeros_are_drawn():
    for values in ([5.0], [5.0, 5.0], [0.0, 0.0]):
        for is_share in (False, True):
            line = Line("a", range(1, len(values) + 1), values)
            assert "<svg" in line_chart("t", "steps", "y", [line], is_share=is_share).svg


def test_colours_are_those_of_the_style_sheet_and_nothing_else_is_fixed():
    lines = [Line("a", [1, 2], [1, 2], 1), Line("all", [1, 2], [2, 2], GREY, 1)]
    chart = line_chart("t", "steps", "y", lines, "Note.")
    assert "stroke: var(--line-1)" in chart.svg and "stroke: var(--line-7)" in chart.svg
    assert not any(color in chart.svg for color in COLORS)
    assert "width=" not in chart.svg.partition(">")[0], "as wide as its place on the page"
    assert chart.legend == [("a", 1, 0), ("all", GREY, 1)]
    assert (chart.title, chart.note) == ("t", "Note.")


def test_texts_that_could_be_markup_or_formulas_are_shown_as_they_are():
    chart = line_chart("t", "<b>$x_2$&", "<i>", [Line("a", [1, 2], [1, 2])])
    assert "<b>" not in chart.svg and "<i>" not in chart.svg
    assert "&lt;b&gt;$x_2$&amp;" in chart.svg


def test_shares_are_percent_up_to_100():
    chart = line_chart("t", "steps", "y", [Line("a", [1, 2], [0.99, 1.0])], is_share=True)
    shown = [float(text) for text in re.findall(r">([\d.]+)%<", chart.svg)]
    assert min(shown) == 0 and max(shown) == 100


def test_bars_of_all_runs_have_one_scale():
    runs = [Line("a", [], [4.0, 2.0], 0), Line("b", [], [1.0, 0.0], 1)]
    svg = bar_chart("t", "FLOPs", ["score", "train"], runs).svg
    assert "score" in svg and "train" in svg
    bars = re.findall(
        r'<path d="M ([\d.]+) \S+\s+L ([\d.]+) [^"]*"[^>]*fill: var\(--line-(\d)\)', svg
    )
    widths = [float(right) - float(left) for left, right, _ in bars]
    assert [color for *_, color in bars] == ["0", "0", "1", "1"]
    assert widths == pytest.approx([4 * widths[2], 2 * widths[2], widths[2], 0], rel=1e-3)


def test_the_same_numbers_give_the_same_chart():
    lines = [Line("a", [1, 2, 3], [3, 1, 2])]
    first, second = (line_chart("t", "steps", "y", lines).svg for _ in range(2))
    assert first == second
