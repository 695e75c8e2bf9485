"""What `benchmarks.bq` found, for the page: a table, and the predictions P1 to P5 by name."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.evidence.claims import CONFIRMED, OPEN, REFUTED
from benchmarks.evidence.markdown import table

SHOWN_B = (64, 256, 1024, 4096)
POOL = "emoji pool"
Line = Mapping[str, Any]


def table_of(lines: Sequence[Line]) -> str:
    """Gain in joint score a row, greedy, by data and b."""
    body = []
    for name, rows, learner in dict.fromkeys((x["name"], x["rows"], x["learner"]) for x in lines):
        by_b = {b: _line(lines, rows, b, name=name, learner=learner) for b in SHOWN_B}
        of_256 = _line(lines, rows, 256, name=name, learner=learner)
        if not of_256:
            continue
        gains = [f"{by_b[b]['greedy_gain']:.2f}" if by_b[b] else "-" for b in SHOWN_B]
        bq = " / ".join(f"{of_256[column]:.2g}" for column in ("bq_caption", "bq_match"))
        label = f"{name}{'' if rows == 'all' else f', {rows}'}, learner: {learner}"
        body.append([label, bq, *gains])
    heads = ["rows", "b·q at b = 256: caption / match", *(f"b = {b:,}" for b in SHOWN_B)]
    return table(heads, body) if body else ""


def predictions(lines: Sequence[Line]) -> list[str]:
    """P1 to P5, each with a verdict: beyond 2 standard errors of the difference, or undecided."""
    found = [_p1(lines), _p2(lines), _p3(lines), _p4(lines), _p5(lines)]
    return [text for text in found if text]


def _line(lines: Sequence[Line], rows: str, b: int, **more) -> Line | None:
    wanted = {"name": POOL, "filter": 5, "same_caption": "ignore", "rows": rows, "b": b} | more
    return next((x for x in lines if all(x[k] == v for k, v in wanted.items())), None)


def _judged(high: Line, low: Line, column: str = "greedy_gain") -> str:
    error = (high[f"{column}_se"] ** 2 + low[f"{column}_se"] ** 2) ** 0.5
    difference = high[column] - low[column]
    return CONFIRMED if difference > 2 * error else REFUTED if difference < -2 * error else OPEN


def _gain(line: Line) -> str:
    return f"{line['greedy_gain']:.2f} ± {line['greedy_gain_se']:.2f}"


def _p1(lines) -> str:
    """Confirmed only if the gains of all three sets of rows have the order of their b·q."""
    near, few, pool = (_line(lines, rows, 256) for rows in ("clustered", "families", "all"))
    if not few or not pool:
        return ""
    said = (
        f"At the same b = 256, few families (b·q {few['bq_caption']:.2g} by caption) gain "
        f"{_gain(few)} a row, the whole pool ({pool['bq_caption']:.2g}) {_gain(pool)}: rows count, "
        "not b alone."
    )
    verdict = _judged(few, pool)
    if near:
        ordered = _judged(near, few)
        verdict = verdict if ordered == CONFIRMED else OPEN
        said += (
            f" Clusters ({near['bq_caption']:.2g}) gain {_gain(near)}. Their equal captions are "
            "ignored here, so b·q by captions does not rank them."
        )
    return f"**P1, the gain grows with b·q: {verdict}.** {said}"


def _p2(lines) -> str:
    """Duplicates repel where they are negatives: then fewer of them are taken together."""
    both = [_line(lines, "families", 256, same_caption=s) for s in ("negative", "ignore")]
    if not all(both):
        return ""
    counted, ignored = (x["greedy_joint_mates"] for x in both)
    alone = both[0]["greedy_independent_mates"]
    verdict = CONFIRMED if counted < 0.8 * alone else OPEN
    return (
        f"**P2, equal captions repel where they are negatives: {verdict}.** Of few families at "
        f"b = 256, a selected row has {counted:.2f} mates of its own caption with joint selection "
        f"and {alone:.2f} with independent top-k; {ignored:.2f} where equal captions are ignored."
    )


def _p3(lines) -> str:
    said = []
    for b in (64, 1024, 4096):
        if line := _line(lines, "all", b):
            joint = [line[f"{how}_joint"] for how in ("greedy", "sampled")]
            said.append((b, joint[0] - joint[1], abs(joint[0])))
    if len(said) < 2:
        return ""
    shares = [gap / size for _, gap, size in said]
    falls = all(later < earlier for earlier, later in itertools.pairwise(shares))
    verdict = CONFIRMED if falls else REFUTED
    texts = [f"at b = {b:,} {gap:.2f} of {size:.2f}" for b, gap, size in said]
    return (
        f"**P3, the draw costs joint score, less at large b: {verdict}.** Greedy minus sampled "
        f"joint score a row: {', '.join(texts)}."
        + (" Below 0: there the best of each chunk are too much alike." if shares[-1] < 0 else "")
    )


def _p4(lines) -> str:
    few = [_line(lines, "families", 256, filter=n) for n in (2, 5, 10)]
    if not all(few):
        return ""
    gains = ", ".join(f"f = {1 - 1 / x['filter']:.1f}: {_gain(x)}" for x in few)
    return (
        f"**P4, more candidates, more gain: {_judged(few[2], few[0])}.** Few families, b = 256: "
        f"{gains}."
    )


def _p5(lines) -> str:
    near, pool = (_line(lines, rows, 128) for rows in ("clustered", "all"))
    if not near or not pool:
        return ""
    return (
        "**P5, lanes ordered by cluster bring mates into a small batch: "
        f"{_judged(near, pool)}.** At b = 128 they gain {_gain(near)} a row, random rows "
        f"{_gain(pool)}. This is joint score: for trained models see [variants.md](variants.md)."
    )
