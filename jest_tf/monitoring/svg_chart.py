"""Line charts as inline SVG: no library, no script, colours from the page's CSS variables."""

import dataclasses
import html
import math
from collections.abc import Sequence

import numpy as np

from jest_tf.monitoring.progress import short_number

WIDTH, HEIGHT = 520, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 30, 40
MAX_POINTS = 400
N_COLORS = 8


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve: x ascending, y of the same length; points that are not finite are left out."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 0  # index of the CSS variable --line-N
    dashed: bool = False


def chart(title: str, x_label: str, lines: Sequence[Line], is_share: bool = False) -> str:
    """An SVG of some lines over one axis, or an empty string when there is no point to draw.

    Args:
      title: above the chart.
      x_label: below it.
      lines: with a legend when there are several.
      is_share: y from 0, printed in percent.
    """
    lines = [thinned for line in lines if len((thinned := thin(line)).x)]
    if not lines:
        return ""
    _, x_high = _range([line.x for line in lines])
    x_low = 0.0  # steps, examples and FLOPs all begin there
    y_low, y_high = _range([line.y for line in lines])
    if is_share:
        y_low = 0.0
    x_ticks = [x for x in nice_ticks(x_low, x_high) if x <= x_high]
    y_ticks = nice_ticks(y_low, y_high)
    y_low, y_high = min(y_low, y_ticks[0]), max(y_high, y_ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * (x - x_low) / (x_high - x_low),
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y_low) / (y_high - y_low),
        )

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_text(title)}">',
        f'<text class="title" x="{LEFT}" y="16">{_text(title)}</text>',
    ]
    for y in y_ticks:
        _, py = place(x_low, y)
        label = f"{100 * y:.4g}%" if is_share else tick_text(y)
        parts.append(f'<path class="grid" d="M{LEFT} {py:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{py + 4:.1f}">{label}</text>')
    for x in x_ticks:
        px, _ = place(x, y_low)
        parts.append(
            f'<text class="tick x" x="{px:.1f}" y="{HEIGHT - BOTTOM + 17}">{tick_text(x)}</text>'
        )
    parts.append(
        f'<text class="tick x" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}">'
        f"{_text(x_label)}</text>"
    )
    parts += [_polyline(line, place) for line in lines]
    legend = _legend(lines) if len(lines) > 1 else ""
    return f"<figure>{''.join(parts)}</svg>{legend}</figure>"


def thin(line: Line) -> Line:
    """At most MAX_POINTS finite points: of each group of neighbours the lowest and the highest."""
    x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) > MAX_POINTS:
        keep = {0, len(x) - 1}
        for group in np.array_split(np.arange(len(x)), MAX_POINTS // 2 - 1):
            keep |= {int(group[y[group].argmin()]), int(group[y[group].argmax()])}
        rows = sorted(keep)
        x, y = x[rows], y[rows]
    return dataclasses.replace(line, x=x, y=y)


def nice_ticks(low: float, high: float, n: int = 4) -> list[float]:
    """About n round numbers (1, 2 or 5 times a power of ten) from at most low to at least high."""
    rough = (high - low) / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A short number for an axis."""
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    return short_number(value)


def _range(values: Sequence[np.ndarray]) -> tuple[float, float]:
    low = float(min(v.min() for v in values))
    high = float(max(v.max() for v in values))
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        # One value alone: a range around it, so that nothing is divided by zero.
        margin = abs(low) * 0.1 or 1.0
        return low - margin, high + margin
    return low, high


def _polyline(line: Line, place) -> str:
    points = [place(x, y) for x, y in zip(line.x, line.y, strict=True)]
    dashed = " dashed" if line.dashed else ""
    style = f'class="line{dashed}" style="stroke:var(--line-{line.color % N_COLORS})"'
    title = f"<title>{_text(line.label)}</title>"
    if len(points) == 1:
        x, y = points[0]
        return f'<circle {style} cx="{x:.1f}" cy="{y:.1f}" r="3">{title}</circle>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline {style} points="{path}">{title}</polyline>'


def _legend(lines: Sequence[Line]) -> str:
    items = "".join(
        f'<li><i class="{"dashed" if line.dashed else ""}" '
        f'style="border-color:var(--line-{line.color % N_COLORS})"></i>{_text(line.label)}</li>'
        for line in lines
    )
    return f"<ul class=legend>{items}</ul>"


def _text(text: str) -> str:
    return html.escape(str(text), quote=True)
