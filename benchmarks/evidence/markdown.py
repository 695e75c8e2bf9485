"""Tables and numbers as the evidence pages write them."""

from collections.abc import Iterable, Sequence

from benchmarks.evidence.curves import Mean


def ratio(mean: Mean | None) -> str:
    """`8.7x ± 0.8`, or a dash."""
    if mean is None:
        return "-"
    return f"{mean.mean:.1f}x" + ("" if mean.error is None else f" ± {mean.error:.1f}")


def percent(mean: Mean) -> str:
    """`12.3 ± 0.4` of a share in 0..1."""
    return f"{100 * mean.mean:.1f}" + ("" if mean.error is None else f" ± {100 * mean.error:.1f}")


def points(mean: Mean) -> str:
    """`+1.2 ± 0.3` of a difference of shares, in points."""
    return f"{100 * mean.mean:+.1f}" + ("" if mean.error is None else f" ± {100 * mean.error:.1f}")


def interval(mean: Mean | None) -> str:
    """`+1.2 [+0.4, +2.0]`: a difference of shares in points with its 95% interval, or a dash."""
    if mean is None:
        return "-"
    low, high = (100 * value for value in mean.interval)
    return f"{100 * mean.mean:+.1f}" + ("" if mean.error is None else f" [{low:+.1f}, {high:+.1f}]")


def table(heads: Iterable[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
