"""The page of the main experiment: what people read. Full tables are CSV files (`tables`)."""

import functools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from benchmarks.evidence import suites
from benchmarks.evidence.analysis import (
    AXES,
    RowResults,
    Trials,
    at_equal,
    late_gain,
    paired,
    speedup,
    spent_by,
    truth_of,
    with_reference,
)
from benchmarks.evidence.claims import MARGIN, PERCENT, POINTS, TIMES, Claim, Figure
from benchmarks.evidence.curves import Mean
from benchmarks.evidence.grid import HEADLINE, best_rate
from benchmarks.evidence.markdown import percent, points, ratio, table
from benchmarks.evidence.notes import notes
from benchmarks.evidence.questions import SHOWN, answers
from jest_tf.progress import short_number

Rows = Mapping[str, RowResults]


class Shown(NamedTuple):
    """What every page is made from.

    command: that makes the page again. rows: finished cells by row. folder: of pictures and tables,
    and store: file of results, both relative to the page. results: of all finished cells, trials
    of learning rates too. unfinished: names of declared cells without a result. pool: the pool,
    described (see `picks`).
    """

    command: str
    rows: Rows
    folder: str
    store: str
    results: Sequence[Mapping[str, Any]]
    unfinished: Sequence[str]
    pool: Mapping[str, Any]


def page(
    family: str,
    shown: Shown,
    tried: Sequence[Trials],
    figures: Sequence[Figure],
    claims: Sequence[Claim],
) -> str:
    """The whole page as Markdown.

    Args:
      family: of the suites. tried: learning rates.
    """
    rows, pool = shown.rows, shown.pool
    has_baseline, has_joint = suites.UNIFORM in rows, suites.JOINT in rows
    questions, selected = _questions(rows, pool), _selected(rows, pool)
    return render(
        "results.md.j2",
        shown,
        family=family,
        short=short_answer(rows) if has_baseline and has_joint else [],
        headline=headline(rows, pool) if has_baseline else "",
        goals_of_speed=_goals(f for f in figures if f.is_speed),
        goals_of_quality=_goals(f for f in figures if not f.is_speed),
        speedups=_speedups(rows) if has_baseline else "",
        baseline_steps=f"{spent_by(rows[suites.UNIFORM], 'step'):,.0f}" if has_baseline else "",
        late_gain=points(late_gain(rows[suites.UNIFORM])) if has_baseline else "",
        equal_cost=_equal_cost(rows) if has_joint else "",
        claims=_claims(claims),
        margin=f"{100 * MARGIN:g}",
        questions=questions,
        n_questions=len(answers(rows, pool)),
        notes=notes(rows, pool) if questions and has_joint else [],
        selected=selected,
        chance=_chance(rows, pool),
        rates=_learning_rates(rows, tried),
    )


def render(template: str, shown: Shown, **values: Any) -> str:
    """A Markdown page from `templates`, with what all pages show."""
    common = {
        "command": shown.command,
        "n_runs": len(shown.results),
        "unfinished": shown.unfinished,
        "folder": shown.folder,
        "store": shown.store,
        "store_name": Path(shown.store).name,
        "made": how(shown.results),
    }
    return _environment().get_template(template).render(**common, **values)


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(  # Markdown: nothing is escaped.
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _headline_rows(rows: Rows) -> list[RowResults]:
    return [row for row in rows.values() if row.row.group == HEADLINE]


def headline(rows: Rows, pool: Mapping[str, Any]) -> str:
    """The headline rows in one table, the strongest baseline among them."""
    baseline, body = rows[suites.UNIFORM], []
    for row in _headline_rows(rows):
        if row.row.name == suites.SAME_STEPS:
            continue
        steps, flops = (
            speedup(row, baseline, axis, "retrieval") for axis in ("step", "flops_cached")
        )
        cost = [
            f"{ratio(steps.ratio)} ({steps.n_reached}/{steps.n_seeds})",
            ratio(flops.ratio),
            ratio(with_reference(row, rows, "retrieval")),
        ]
        truth = truth_of(row, pool)
        body.append(
            [
                row.row.label,
                *(["1x"] * 3 if row is baseline else cost),
                percent(row.test_mean("retrieval")),
                percent(row.test_mean("zero_shot")),
                percent(truth["broken"]) if truth else "-",
            ]
        )
    heads = [
        "trained by", "fewer steps to uniform's final score (seeds there)", "fewer FLOPs",
        "fewer FLOPs, reference's training counted", "retrieval", "zero-shot", "noisy selected",
    ]  # fmt: skip
    return (
        f"{table(heads, body)}\n\nScores and shares in %, mean ± standard error over "
        f"{len(baseline.cells)} seeds; scores of the test part. FLOPs: the reference's embeddings "
        "are stored with the data. Each policy has the same trials of learning rates."
    )


def short_answer(rows: Rows) -> list[str]:
    """The result in a few sentences, the strongest baseline first named where it wins."""
    baseline, joint = rows[suites.UNIFORM], rows[suites.JOINT]
    steps, flops = (
        speedup(joint, baseline, axis, "retrieval") for axis in ("step", "flops_cached")
    )
    said = [
        f"Joint selection reaches uniform sampling's final score in {ratio(steps.ratio)} fewer "
        f"steps and {ratio(flops.ratio)} fewer FLOPs, the reference's embeddings being stored."
    ]
    if suites.CURATED in rows:
        said += _against_reference(rows)
    if suites.TOP_K in rows:
        top_k = rows[suites.TOP_K]
        size = joint.one["config"]["selection"]["sub_batch"]
        said.append(
            f"Joint selection and independent top-k tie at b = {size}: "
            f"{points(paired(joint.test(), top_k.test()))} points on the test part, "
            f"{points(paired(joint.validation(), top_k.validation()))} on the validation part."
        )
    return said


def _against_reference(rows: Rows) -> list[str]:
    """What the reference costs, and how training on its data alone compares."""
    baseline, joint, curated = (
        rows[name] for name in (suites.UNIFORM, suites.JOINT, suites.CURATED)
    )
    alone = speedup(curated, baseline, "flops", "retrieval")
    training, whole = (spent_by(row, "flops") for row in (curated, baseline))
    counted = with_reference(joint, rows, "retrieval")
    return [
        f"Training on the curated set alone costs less on this pool: it reaches the same score in "
        f"{ratio(alone.ratio)} fewer FLOPs and ends at {percent(curated.test_mean())}%, joint "
        f"selection at {percent(joint.test_mean())}%.",
        f"Training the reference costs {training / 1e12:.1f} TFLOP once, {training / whole:.0%} of "
        f"the whole uniform run. With it counted, uniform sampling spends {ratio(counted)} the "
        "FLOPs of joint selection for the same score.",
    ]


_WRITERS = {TIMES: (ratio, ""), PERCENT: (percent, "%"), POINTS: (points, " points")}


def _goals(figures) -> str:
    body = []
    for f in figures:
        if f.value is None:
            value = "not reached" if f.reached is False else "not measured yet"
        else:
            write, unit = _WRITERS[f.unit]
            value = write(Mean(f.value, f.error, 0)) + unit
        mark = {True: "reached", False: "missed", None: ""}[f.reached]
        body.append([f"`{f.name}`", f.goal, value, mark, f.detail])
    return table(["figure", "goal", "value", "", "what it is"], body)


def _speedups(rows: Rows) -> str:
    baseline, body = rows[suites.UNIFORM], []
    for row in _headline_rows(rows):
        cells = [row.row.label]
        for score in ("retrieval", "zero_shot"):
            found = [speedup(row, baseline, axis, score) for axis in ("step", "flops_cached")]
            cells += [f"{found[0].n_reached}/{found[0].n_seeds}", *(ratio(s.ratio) for s in found)]
        body.append(cells)
    heads = ["trained by", "retrieval: seeds there", "fewer steps", "fewer FLOPs",
             "zero-shot: seeds there", "fewer steps", "fewer FLOPs"]  # fmt: skip
    return table(heads, body)


def _equal_cost(rows: Rows) -> str:
    axes = [axis for axis in AXES if axis != "flops_cached"]
    budgets = {axis: spent_by(rows[suites.JOINT], axis) for axis in axes}
    body = []
    for row in _headline_rows(rows):
        cells = [row.row.label]
        for axis, budget in budgets.items():
            mean, ended = at_equal(row, axis, budget, "retrieval")
            cells.append(percent(mean) + (" †" if ended else ""))
        body.append(cells)
    heads = [f"{AXES[axis]} = {short_number(budget)}" for axis, budget in budgets.items()]
    return table(["trained by", *heads], body)


def _claims(claims: Sequence[Claim]) -> str:
    body = [[c.text, f"**{c.verdict}**", "; ".join(c.numbers)] for c in claims]
    return table(["claim", "verdict", "numbers"], body) if body else ""


def _questions(rows: Rows, pool: Mapping[str, Any]) -> str:
    body = []
    for a in answers(rows, pool, SHOWN):
        noisy = "-" if a.broken is None else points(a.broken)
        scores = (points(score) for score in (a.retrieval, a.validation))
        what = f"{a.changed} − {a.plain}"
        body.append([a.question, what, *scores, noisy, str(a.retrieval.n)])
    heads = ["question", "difference", "retrieval", "on validation", "noisy selected", "seeds"]
    return table(heads, body) if body else ""


def _selected(rows: Rows, pool: Mapping[str, Any]) -> str:
    found = [(row.row.label, t) for row in _headline_rows(rows) if (t := truth_of(row, pool))]
    if not found:
        return ""
    columns = {
        "clean": "clean",
        "broken": "noisy",
        "truncated": "truncated",
        "broken_rejected": "noisy pairs rejected",
        "pair_seen": "in the curated set",
    }
    body = []
    for label, truth in found:
        cells = [percent(truth[key]) if key in truth else "-" for key in columns]
        body.append([label, *cells, f"{truth['distinct'].mean:,.0f}"])
    return table(["trained by", *columns.values(), "distinct examples"], body)


def _chance(rows: Rows, pool: Mapping[str, Any]) -> str:
    ratios = [t["filter_ratio"].mean for row in _headline_rows(rows)
              if (t := truth_of(row, pool)) and "filter_ratio" in t]  # fmt: skip
    return f"{100 * ratios[0]:.0f}" if ratios else ""


def _learning_rates(rows: Rows, tried: Sequence[Trials]) -> str:
    if not tried:
        return ""
    rates = sorted({rate for trials in tried for rate in trials.scores})
    both = [trials for trials in tried if trials.name in suites.CHOOSING]
    body = []
    for trials in tried:
        cells = [f"{100 * trials.scores[r]:.1f}" if r in trials.scores else "-" for r in rates]
        label = rows[trials.name].row.label if trials.name in rows else trials.name
        chosen = "as below" if trials.name == suites.JOINT else f"{trials.best:g}"
        body.append([label, *cells, chosen])
    if len(both) > 1:
        pooled = {rate: [trials.scores[rate] for trials in both] for rate in both[0].scores}
        means = (f"{100 * statistics.fmean(pooled[rate]):.1f}" for rate in rates)
        body.append(["mean of both selecting policies", *means, f"{best_rate(pooled):g}"])
    return table(["trained by", *(f"{rate:g}" for rate in rates), "chosen"], body)


def how(results: Sequence[Mapping[str, Any]]) -> str:
    """When and on what the runs were made."""
    if not results:
        return "No run is finished."
    made = [result["made"] for result in results]
    hours = sum(m["wall_seconds"] * m["n_cpus"] for m in made) / 3600
    machines = sorted({f"{m['cpu']}, {m['n_cpus']} CPU(s) per run" for m in made})
    jobs = sorted({m["jobs"] for m in made})
    versions = sorted({m["packages"]["tensorflow"] for m in made})
    days = sorted({m["started_utc"][:10] for m in made})
    dirty = sum(bool(m["git"] and m["git"]["dirty"]) for m in made)
    text = (
        f"{len(made)} runs, {hours:.1f} hours of a CPU core, "
        f"{' to '.join({days[0]: 0, days[-1]: 0})}, on {'; '.join(machines)}, "
        f"TensorFlow {', '.join(versions)}, {', '.join(map(str, jobs))} runs at a time. {dirty} of "
        "them started with uncommitted changes in the checkout."
    )
    if len(jobs) > 1 or len(machines) > 1:
        text += " Seconds of runs made in different ways do not compare."
    return text
