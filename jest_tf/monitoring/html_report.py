"""The report on runs: one HTML page. This module computes what the template `report` shows.

A run has the same colour in every chart. Where a chart shows several numbers of each run, the line
style tells them apart.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jest_tf.config import differences
from jest_tf.monitoring.run_history import COLUMNS, RunHistory, verdict
from jest_tf.monitoring.samples import GROUPS, Samples
from jest_tf.pages.charts import GREY, Chart, Line, bar_chart, line_chart
from jest_tf.pages.html import data_uri, render
from jest_tf.progress import duration, short_number

STEPS, FLOPS = "steps", "FLOPs"
# Title, unit, what to see, then beginnings of names in metrics.jsonl.
SELECTION_CURVES = (
    ("Joint score of the selected examples", "score per example",
     "Higher is better. The policy's own selection should lie above uniform sampling.",
     "selection/joint_score"),
    ("Mean score", "learnability",
     "The selected examples should score higher than the whole super-batch (pool_score).",
     "selection/chosen_score", "selection/pool_score"),
    ("Overlap with independent top-k", "share of the sub-batch",
     "1 means that joint selection takes the same examples as scoring each one alone.",
     "selection/overlap_independent_top_k"),
    ("Effective size of the pool", "examples",
     "How many examples share the chance to be drawn. A fall means that few dominate.",
     "selection/effective_pool"),
)  # fmt: skip
TRAINING_CURVES = (
    ("Training loss", "loss of the sub-batch",
     "Selected examples are harder: compare losses of one policy only.", "train/loss"),
    ("Gradient norm", "norm before clipping", "Spikes show unstable steps.", "train/gradient_norm"),
    ("Learning rate", "learning rate", "Warm-up, then decay.", "train/learning_rate"),
    ("Accuracy among the candidates", "share of the super-batch",
     "Images whose own text is the nearest of all candidates.", "train/pool_accuracy"),
    ("Scale of both models", "scale",
     "Factor of the similarities; the reference's is frozen.",
     "train/learner_scale", "train/reference_scale"),
    ("Bias of both models", "bias",
     "Added to the similarities; the reference's is frozen.",
     "train/learner_bias", "train/reference_bias"),
)  # fmt: skip
NOT_DRAWN = ("n_queries", "n_examples", "n_classes", "median_rank")


def page(runs: Sequence[RunHistory], generated: str) -> str:
    """The report of `runs[0]`, compared with the others; generated: when and by what command."""
    values = {
        "evaluations": evaluations(runs),
        "selection": {"labelled": labelled(runs), "charts": _selection(runs)},
        "examples": examples(runs[0]),
        "training": _curves(runs, TRAINING_CURVES),
        "cost": _cost(runs),
    }
    scored = [r.summary | {"name": r.name} for r in runs if "image_to_text_r1" in r.summary]
    ahead = verdict(scored) if len(scored) > 1 else ""
    if len(runs) > 1 and len(scored) < 2:
        ahead = "No comparison of scores: fewer than two of these runs have a retrieval evaluation."
    shown = values | {
        "evaluations": values["evaluations"]["rows"],
        "selection": any(values["selection"].values()),
    }
    return render(
        "report.html.j2",
        title=" against ".join(run.name for run in runs),
        generated=generated,
        contents=["Summary", *(n.capitalize() for n in shown if shown[n]), "Configuration"],
        verdict=ahead,
        differences=differences(*(run.config for run in runs)) if len(runs) > 1 else None,
        runs=runs,
        columns=COLUMNS,
        **values,
    )


def evaluations(runs: Sequence[RunHistory], wanted: Sequence[str] = ()) -> dict[str, Any]:
    """`head` and `rows` of a table, and `charts` by axis, of the `wanted` metrics or of all."""
    names = {name for run in runs for name in run.series if name.startswith("eval/")}
    names = {n for n in names if n.rpartition("/")[2] not in NOT_DRAWN}

    def natural(name: str) -> list:  # recall@5 before recall@10
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]

    names = sorted((n for n in names if not wanted or n in wanted), key=natural)
    # A chart of one point per run says no more than the table.
    drawn = [n for n in names if any(len(r.series[n].step) > 1 for r in runs if n in r.series)]
    note = "Higher is better."
    charts = [
        (f"Against {axis}", [_curve(runs, n.removeprefix("eval/"), "score", note, [n], axis, True)
                             for n in drawn])
        for axis in (STEPS, FLOPS)
    ]  # fmt: skip
    return {
        "head": ["newest value", *(run.name for run in runs)],
        "rows": [[n.removeprefix("eval/"), *(_newest(run, n) for run in runs)] for n in names],
        "charts": [(title, [chart for chart in found if chart]) for title, found in charts],
    }


def _newest(run: RunHistory, name: str) -> str:
    if name not in run.series:
        return "–"
    series = run.series[name]
    return f"{series.value[-1]:.1%} at step {series.step[-1]:,}"


def labelled(runs: Sequence[RunHistory]) -> list[Chart]:
    """Shares of known kinds of noise among the selected, where the data's labels are known."""
    known = [(i, run) for i, run in enumerate(runs) if run.windows]
    if not known:
        return []
    pool = known[0][1].pool
    steps = {i: [w.last_step for w in run.windows] for i, run in known}
    last = max(max(found) for found in steps.values())

    def share(title: str, of_window, of_pool: float, note: str) -> Chart | None:
        lines = [Line(run.name, steps[i], [*map(of_window, run.windows)], i % GREY)
                 for i, run in known]  # fmt: skip
        lines.append(Line("the whole data set", [0, last], [of_pool] * 2, GREY, 1))
        return line_chart(title, STEPS, "share of selected", lines, note, is_share=True)

    charts = [
        share("Noisy pairs among the selected", lambda w: w.noisy, known[0][1].pool_noisy,
              "Lower is better. Noisy: the labels that the data set itself calls noise."),
        line_chart(
            "Different examples selected so far", STEPS, "examples",
            [Line(run.name, steps[i], [w.n_distinct_so_far for w in run.windows], i % GREY)
             for i, run in known],
            "A flat curve means that the same examples are selected again.",
        ),
    ]  # fmt: skip
    for kind, of_pool in sorted(pool.items(), key=lambda item: -item[1]):
        note = f"{of_pool:.0%} of the data set."
        for _, run in known if of_pool else ():  # the share of its candidates that each run selects
            s = run.config["selection"]
            kept = s["sub_batch"] / s["super_batch"]
            if kept < 1:
                share_of = kept * run.windows[-1].shares.get(kind, 0.0) / of_pool
                note += (
                    f" {run.name} ends by selecting {share_of:.0%} of these (chance: {kept:.0%})."
                )
        of_kind = lambda w, kind=kind: w.shares.get(kind, 0.0)  # noqa: E731
        charts.append(share(f"Label “{kind}”", of_kind, of_pool, note))
    return [chart for chart in charts if chart]


def _selection(runs: Sequence[RunHistory]) -> list[Chart]:
    sources = sorted({n for run in runs for n in run.series if n.startswith("acceptance/")})
    charts = [
        _curve(runs, f"Source “{name.removeprefix('acceptance/')}”", "share of its candidates",
               "Share of this source's candidates that was selected.", [name], STEPS, True)
        for name in sources
    ]  # fmt: skip
    return [*_curves(runs, SELECTION_CURVES), *(chart for chart in charts if chart)]


def _curves(runs: Sequence[RunHistory], groups: Iterable[tuple[str, ...]]) -> list[Chart]:
    charts = []
    for title, unit, note, *beginnings in groups:
        names = sorted({n for run in runs for n in run.series if n.startswith(tuple(beginnings))})
        charts.append(_curve(runs, title, unit, note, names, STEPS))
    return [chart for chart in charts if chart]


def _curve(
    runs: Sequence[RunHistory], title: str, unit: str, note: str, names: Sequence[str], axis: str,
    is_share: bool = False,
) -> Chart | None:  # fmt: skip
    """One line per run, or per run and name; the note ends with the newest values."""
    lines = []
    for i, run in enumerate(runs):
        for k, name in enumerate(names):
            if (s := run.series.get(name)) is None:
                continue
            x = s.step if axis == STEPS else run.flops_at(s.step)
            label = run.name if len(names) == 1 else f"{run.name}: {name.rpartition('/')[2]}"
            lines.append(Line(label, x, s.value, i % GREY, k))
    if len(names) == 1:
        form = ".1%" if is_share else ".4g"
        newest = ", ".join(f"{line.label} {line.y[-1]:{form}}" for line in lines)
        note = f"{note} Newest: {newest}.".strip()
    return line_chart(title, axis, unit, lines, note, is_share)


def examples(run: RunHistory) -> list[tuple[str, list]]:
    """(step, [(title of a group, its cards)]) of the kept steps."""
    return [
        (f"{step:,}", [(title, _cards(samples.of(group))) for group, title in GROUPS.items()
                       if group in samples.group])
        for step, samples in run.samples.items()
    ]  # fmt: skip


def _cards(samples: Samples) -> list[dict[str, Any]]:
    cards = []
    for i in range(len(samples.id)):
        losses = {"learner": samples.learner_loss[i], "reference": samples.reference_loss[i]}
        told = ", ".join(f"{who} {v:.2f}" for who, v in losses.items() if np.isfinite(v))
        details = [
            f"score {samples.score[i]:.2f}" + (f"; loss: {told}" if told else ""),
            f"{samples.source[i]}, {samples.key[i] or f'id {samples.id[i]}'}",
        ]
        image, text = data_uri(samples.image[i]), str(samples.caption[i])
        cards.append({"image": image, "text": text, "details": details})
    return cards


def _cost(runs: Sequence[RunHistory]) -> list[Chart]:
    """Bars of one scale for all runs, by part of a step."""
    charts = []
    for unit, form, title in (("flops", short_number, "FLOPs"), ("seconds", duration, "seconds")):
        prefix = f"cost/{unit}/"
        of_runs = [
            {n.removeprefix(prefix): _last(r, n) for n in r.series if n.startswith(prefix)}
            for r in runs
        ]
        parts = list(dict.fromkeys(part for found in of_runs for part in found))
        if not parts:
            continue
        bars = [
            Line(run.name, [], [found.get(part, 0.0) for part in parts], i % GREY)
            for i, (run, found) in enumerate(zip(runs, of_runs, strict=True))
        ]
        totals = ", ".join(f"{run.name} {form(_last(run, f'cost/{unit}'))}" for run in runs)
        note = f"By part of a step, summed over the run. In all: {totals}."
        charts.append(bar_chart(f"Cost in {title}", title, parts, bars, note))
    return charts


def _last(run: RunHistory, name: str) -> float:
    return float(run.series[name].value[-1]) if name in run.series else 0.0
