"""Charts for HTML pages: matplotlib draws them, the page's style sheet gives the colours.

A colour means the same run in every chart of a page; GREY is for what belongs to no run.
"""

import dataclasses
import io
import re
from collections.abc import Sequence

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

# In an SVG these become `var(--line-0)` … of the style sheet, which knows light and dark.
COLORS = ("#0b62c4", "#d1570b", "#17853c", "#9a3ec4", "#b8860b", "#c42b50", "#118a8a", "#6b7280")
GREY = 7
STYLES = ("-", "--", ":", "-.")
_INK, _RULE = "#656b73", "#dfe2e6"
_VARIABLES = {color: f"var(--line-{i})" for i, color in enumerate(COLORS)}
_VARIABLES |= {_INK: "var(--muted)", _RULE: "var(--rule)"}
_RC = {"svg.fonttype": "none", "svg.hashsalt": "jest_tf", "font.size": 9.5}


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve: x ascending; points not finite are left out. `color`, `style`: of COLORS, STYLES."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 0
    style: int = 0


@dataclasses.dataclass(frozen=True)
class Chart:
    """For the template `chart`: `note` says what to see, `legend` has (label, color, style)."""

    title: str
    note: str
    svg: Markup
    legend: list[tuple[str, int, int]]


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    lines: Sequence[Line],
    note: str = "",
    is_share: bool = False,
) -> Chart | None:
    """Lines over one axis from 0; None without a point. is_share: y in 0..1, as percent."""
    lines = [finite for line in lines if len((finite := _finite(line)).x)]
    if not lines:
        return None
    figure, axes = _axes(x_label, y_label, height=2.5)
    for line in lines:
        marker = "o" if len(line.x) == 1 else None
        axes.plot(
            line.x, line.y, STYLES[line.style % len(STYLES)], color=_color(line.color),
            linewidth=1.5, marker=marker, markersize=4,
        )  # fmt: skip
    axes.set_xlim(0, max(float(max(line.x)) for line in lines) or 1)
    if is_share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylim(0, min(1.0, 1.08 * max(float(max(line.y)) for line in lines)) or 0.01)
    else:
        axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-3, 5))
    legend = [(line.label, line.color, line.style) for line in lines]
    return Chart(title, note, _svg(figure), legend)


def bar_chart(
    title: str, x_label: str, parts: Sequence[str], runs: Sequence[Line], note: str = ""
) -> Chart:
    """A group of horizontal bars for each part, one bar a run: `runs` have y [len(parts)]."""
    figure, axes = _axes(x_label, "", height=0.7 + 0.22 * len(parts) * len(runs))
    thickness = 0.8 / len(runs)
    for k, run in enumerate(runs):
        places = np.arange(len(parts)) + (k - (len(runs) - 1) / 2) * thickness
        axes.barh(places, run.y, 0.9 * thickness, color=_color(run.color))
    axes.set_yticks(range(len(parts)), parts, parse_math=False)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    return Chart(title, note, _svg(figure), [(run.label, run.color, 0) for run in runs])


def _axes(x_label: str, y_label: str, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, height), layout="constrained")  # inches of 72 points
    axes = figure.add_subplot()
    axes.set_xlabel(x_label, color=_INK, parse_math=False)
    axes.set_ylabel(y_label, color=_INK, parse_math=False)
    axes.grid(visible=True, color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure, axes


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def _finite(line: Line) -> Line:
    x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
    kept = np.isfinite(x) & np.isfinite(y)
    return dataclasses.replace(line, x=x[kept], y=y[kept])


def _svg(figure: Figure) -> Markup:
    """The figure as an SVG element without size, ids of groups, style and metadata."""
    buffer = io.StringIO()
    with matplotlib.rc_context(_RC):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"|<!--.*?-->', "", text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', text, count=1)
    return Markup(re.sub("|".join(_VARIABLES), lambda m: _VARIABLES[m[0]], text))
