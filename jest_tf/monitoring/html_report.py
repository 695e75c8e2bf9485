"""The selection report: one HTML page that needs no network, no script and no other file."""

import base64
import html
import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jest_tf.monitoring.progress import duration, short_number
from jest_tf.monitoring.report_style import STYLE
from jest_tf.monitoring.run_history import RunHistory, config_differences
from jest_tf.monitoring.run_summary import COLUMNS, TERA
from jest_tf.monitoring.samples import GROUPS, Samples
from jest_tf.monitoring.svg_chart import Line, chart

THUMBNAIL = 96  # pixels; larger images are made smaller so that the page stays below 10 MB
STEPS, FLOPS = "steps", "FLOPs"
# Groups of curves → beginnings of names in metrics.jsonl, in the order of the page.
SELECTION_CURVES = (
    ("Joint score of the chosen and of simpler policies", "selection/joint_score"),
    ("Mean score", "selection/chosen_score", "selection/pool_score"),
    ("Overlap with independent top-k", "selection/overlap_independent_top_k"),
    ("Effective size of the pool", "selection/effective_pool"),
)
TRAINING_CURVES = (
    ("Training loss", "train/loss"),
    ("Gradient norm", "train/gradient_norm"),
    ("Learning rate", "train/learning_rate"),
    ("Accuracy among the candidates", "train/pool_accuracy"),
    ("Scale of both models", "train/learner_scale", "train/reference_scale"),
    ("Bias of both models", "train/learner_bias", "train/reference_bias"),
)
NOISE_NOTE = (
    "<p>The kind of noise of every row of this pool is known. Here it measures; it never chooses. "
    "Broken: shuffled, boilerplate, truncated, bad image.</p>"
)
NOT_DRAWN = ("n_queries", "n_examples", "n_classes", "median_rank")


def page(runs: Sequence[RunHistory], generated: str) -> str:
    """The report of `runs[0]`, compared with the others.

    Args:
      runs: from `load_runs`.
      generated: when and by what command the page was made.
    """
    first = runs[0]
    sections = [
        ("What the runs did" if len(runs) > 1 else "What the run did", _overview(runs)),
        ("Evaluations", _evaluations(runs)),
        ("What was chosen", _selection(runs)),
        ("Examples", _examples(first)),
        ("Training", _curves(runs, TRAINING_CURVES)),
        ("Cost", _cost(runs)),
        ("Configuration", _configuration(runs)),
        ("Environment", _environment(runs)),
    ]
    body = "".join(f"<section><h2>{title}</h2>{text}</section>" for title, text in sections if text)
    title = " against ".join(run.name for run in runs)
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{_text(title)}</h1><p class=muted>{_text(generated)}</p></header>"
        f"<main>{body}</main></body></html>"
    )


def _overview(runs: Sequence[RunHistory]) -> str:
    sentences = "".join(f"<li>{_swatch(i)}{_sentence(run)}</li>" for i, run in enumerate(runs))
    rows = []
    for run in runs:
        row = run.summary
        row = row | {"name": run.name}
        row["flops"] = row["flops"] / TERA if row.get("flops") is not None else None
        rows.append(
            [
                "–" if row.get(key) is None else form.format(row[key])
                for key, form in COLUMNS.values()
            ]
        )
    return f"<ul class=runs>{sentences}</ul>" + _table([c.strip() for c in COLUMNS], rows)


def _sentence(run: RunHistory) -> str:
    s, summary = run.config["selection"], run.summary
    steps, total = summary.get("steps") or 0, run.config["total_steps"]
    progress = "finished" if steps >= total else f"{steps:,} of {total:,} steps done"
    how = (
        "trains on all that it loads, in random order"
        if s["policy"] == "uniform"
        else f"loads {s['super_batch']:,} examples a step and trains on the "
        f"{s['sub_batch']:,} that the policy {s['policy']} picks by {s['criterion']}"
        + (f", in {s['n_chunks']} chunks" if s["policy"] == "joint" else "")
    )
    time = f", {duration(summary['seconds'])}" if summary.get("seconds") else ""
    return (
        f"<b>{_text(run.name)}</b> {how}. Data {_text(run.config['data']['train'])}, seed "
        f"{run.config['seed']}; {progress}{time}. <span class=muted>{_text(run.path)}</span>"
    )


def _evaluations(runs: Sequence[RunHistory]) -> str:
    names = {name for run in runs for name in run.series if name.startswith("eval/")}
    names = sorted((n for n in names if n.rpartition("/")[2] not in NOT_DRAWN), key=_natural)
    if not names:
        return ""
    rows = [[n.removeprefix("eval/"), *(_last_share(run, n) for run in runs)] for n in names]
    parts = [_table(["newest value", *(run.name for run in runs)], rows)]
    # A chart of one point per run says no more than the table.
    curves = [
        n for n in names if any(len(run.series[n].step) > 1 for run in runs if n in run.series)
    ]
    for axis in (STEPS, FLOPS):
        charts = [_metric_chart(runs, n.removeprefix("eval/"), [n], axis, True) for n in curves]
        if any(charts):
            parts.append(f"<h3>Against {axis}</h3>" + _grid(charts))
    return "".join(parts)


def _last_share(run: RunHistory, name: str) -> str:
    if name not in run.series:
        return "–"
    series = run.series[name]
    return f"{series.value[-1]:.1%} at step {series.step[-1]:,}"


def _natural(name: str) -> list:
    """Sorts recall@5 before recall@10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _selection(runs: Sequence[RunHistory]) -> str:
    return _truth(runs) + _acceptance(runs) + _curves(runs, SELECTION_CURVES)


def _truth(runs: Sequence[RunHistory]) -> str:
    """Shares of known kinds of noise among the picks, where the data's truth is known."""
    known = [(i, run) for i, run in enumerate(runs) if run.windows]
    if not known:
        return ""
    pool = known[0][1].pool
    last = max(run.windows[-1].last_step for _, run in known)

    def compare(title: str, value: Callable, of_pool: float | None = None) -> str:
        lines = [
            Line(run.name, _steps(run), [value(w) for w in run.windows], i) for i, run in known
        ]
        if of_pool is not None:
            lines.append(Line("the whole pool", [0, last], [of_pool, of_pool], 7, dashed=True))
        return chart(title, STEPS, lines, is_share=of_pool is not None)

    charts = [
        compare("Broken pairs among the picks", lambda w: w.noisy, known[0][1].pool_noisy),
        compare("Clean pairs among the picks", lambda w: w.clean, pool.get("clean", 0.0)),
        compare("Different examples picked so far", lambda w: w.n_distinct_so_far),
        *(draw(run) for _, run in known for draw in (_kinds, _accepted_kinds)),
    ]
    return NOISE_NOTE + _grid(charts)


def _kinds(run: RunHistory) -> str:
    kinds = sorted(run.pool.items(), key=lambda kind_and_share: -kind_and_share[1])
    lines = [
        Line(
            f"{kind} (pool {share:.0%})",
            _steps(run),
            [w.shares.get(kind, 0.0) for w in run.windows],
            color,
        )
        for color, (kind, share) in enumerate(kinds)
    ]
    return chart(f"{run.name}: picks by kind", STEPS, lines, is_share=True)


def _accepted_kinds(run: RunHistory) -> str:
    """Picked share of each kind's candidates, which are the pool's share of the super-batches."""
    s = run.config["selection"]
    if s["super_batch"] == s["sub_batch"]:
        return ""
    kept = s["sub_batch"] / s["super_batch"]
    lines = [
        Line(kind, _steps(run), [kept * w.shares.get(kind, 0.0) / share for w in run.windows], i)
        for i, (kind, share) in enumerate(sorted(run.pool.items(), key=lambda k: -k[1]))
    ]
    if run.windows:
        span = [0, run.windows[-1].last_step]
        lines.append(Line(f"all ({kept:.0%})", span, [kept, kept], 7, dashed=True))
    return chart(f"{run.name}: acceptance by kind", STEPS, lines, is_share=True)


def _steps(run: RunHistory) -> list[int]:
    return [w.last_step for w in run.windows]


def _acceptance(runs: Sequence[RunHistory]) -> str:
    names = sorted({n for run in runs for n in run.series if n.startswith("acceptance/")})
    if not names:
        return ""
    charts = [
        chart(
            f"{run.name}: share of each source's candidates that were picked",
            STEPS,
            [
                Line(name.removeprefix("acceptance/"), s.step, s.value, i)
                for i, name in enumerate(names)
                if (s := run.series.get(name)) is not None
            ],
            is_share=True,
        )
        for run in runs
    ]
    return _grid(charts)


def _curves(runs: Sequence[RunHistory], groups: Iterable[tuple[str, ...]]) -> str:
    charts = []
    for title, *beginnings in groups:
        names = sorted({n for run in runs for n in run.series if n.startswith(tuple(beginnings))})
        charts.append(_metric_chart(runs, title, names, STEPS))
    return _grid(charts)


def _metric_chart(
    runs: Sequence[RunHistory], title: str, names: Sequence[str], axis: str, is_share: bool = False
) -> str:
    """One line per run, or per run and name."""
    lines = []
    for i, run in enumerate(runs):
        for k, name in enumerate(names):
            if (s := run.series.get(name)) is None:
                continue
            x = s.step if axis == STEPS else run.flops_at(s.step)
            label = ": ".join(
                ([run.name] if len(runs) > 1 or len(names) == 1 else [])
                + ([name.rpartition("/")[2]] if len(names) > 1 else [])
            )
            color = i if len(names) == 1 else i * len(names) + k
            lines.append(Line(label, x, s.value, color))
    return chart(title, axis, lines, is_share)


def _examples(run: RunHistory) -> str:
    parts = []
    for step, samples in run.samples.items():
        parts.append(f"<h3>Step {step:,}</h3>")
        for group, title in GROUPS.items():
            of_group = samples.of(group)
            if len(of_group.id):
                parts.append(f"<h4>{title}</h4><div class=examples>{_cards(of_group)}</div>")
    return "".join(parts)


def _cards(samples: Samples) -> str:
    cards = []
    for i in range(len(samples.id)):
        losses = [
            f"{who} {value:.2f}"
            for who, value in (
                ("learner", samples.learner_loss[i]), ("reference", samples.reference_loss[i])
            )
            if np.isfinite(value)
        ]  # fmt: skip
        caption = _text(samples.caption[i])
        cards.append(
            f'<figure class=card><img alt="{caption}" src="{data_uri(samples.image[i])}">'
            f"<figcaption>{caption}<br><span class=muted>score {samples.score[i]:.2f}"
            + (f"; loss: {', '.join(losses)}" if losses else "")
            + f"<br>{_text(samples.source[i])}, id {samples.id[i]}</span></figcaption></figure>"
        )
    return "".join(cards)


def data_uri(image: np.ndarray) -> str:
    """uint8 [h, w, 3] as a data: address, at most THUMBNAIL pixels a side."""
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _cost(runs: Sequence[RunHistory]) -> str:
    rows = []
    for run in runs:
        for unit, form in (("flops", short_number), ("seconds", duration)):
            total = _last(run, f"cost/{unit}")
            if not total:
                continue
            prefix = f"cost/{unit}/"
            phases = {
                n.removeprefix(prefix): _last(run, n) for n in run.series if n.startswith(prefix)
            }
            bar = "".join(
                f'<i style="width:{100 * v / total:.2f}%;background:var(--line-{k % 8})" '
                f'title="{_text(name)}: {v / total:.1%}"></i>'
                for k, (name, v) in enumerate(phases.items())
            )
            legend = ", ".join(
                f"{_swatch(k)}{_text(name)} {v / total:.1%}"
                for k, (name, v) in enumerate(phases.items())
            )
            rows.append(
                f"<tr><td>{_text(run.name)}<td>{unit}<td>{form(total)}"
                f"<td class=wide><div class=bar>{bar}</div><small>{legend}</small></tr>"
            )
    return f"<table>{''.join(rows)}</table>" if rows else ""


def _last(run: RunHistory, name: str) -> float:
    return float(run.series[name].value[-1]) if name in run.series else 0.0


def _configuration(runs: Sequence[RunHistory]) -> str:
    out = ""
    if len(runs) > 1:
        rows = [[field, *map(str, row)] for field, row in config_differences(runs).items()]
        out += "<p>Fields in which the runs differ:</p>"
        out += _table(["field", *(run.name for run in runs)], rows)
    for run in runs:
        out += _details(f"All of {run.name}", run.config)
    return out


def _environment(runs: Sequence[RunHistory]) -> str:
    return "".join(_details(run.name, run.environment) for run in runs if run.environment)


def _details(title: str, values: dict[str, Any]) -> str:
    lines = "\n".join(f"{key}: {value}" for key, value in _flat_lines(values))
    return f"<details><summary>{_text(title)}</summary><pre>{_text(lines)}</pre></details>"


def _flat_lines(values: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat_lines(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head_cells = "".join(f"<th>{_text(cell)}" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{_text(c)}" for c in row) for row in rows)
    return f"<div class=scroll><table><tr>{head_cells}{body}</table></div>"


def _grid(charts: Iterable[str]) -> str:
    found = "".join(charts)
    return f"<div class=charts>{found}</div>" if found else ""


def _swatch(color: int) -> str:
    return f'<i class=swatch style="background:var(--line-{color % 8})"></i>'


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)
