"""The page that the quickstart ends with, made from the workdirs that its commands left."""

import dataclasses
import datetime
import pathlib
from collections.abc import Sequence
from typing import Any

from examples.emoji import run_table
from examples.emoji.demos import Demo, Query
from jest_tf.data.cleaning import read_picture
from jest_tf.files import parse_json
from jest_tf.monitoring import html_report, run_history
from jest_tf.monitoring.run_history import RunHistory, load_runs
from jest_tf.pages.html import data_uri, render
from jest_tf.serving.image_index import ImageIndex

SHOWN = 5  # pictures of an answer: a query counts as answered if one of them is right
CURVES = ("retrieval/image_to_text/recall@5", "retrieval/text_to_image/recall@5", "zero_shot/top1")
NEXT_STEPS = """\
jest prepare folder photos/ --out=data/mine --max_side=256
jest import --from=siglip-base-patch16-224 --out=runs/siglip
jest train --config=tune --workdir=runs/tuned --config.model.init=runs/siglip \\
    --config.data.train=data/mine
jest export --workdir=runs/tuned --out=runs/tuned/export"""


@dataclasses.dataclass(frozen=True)
class Written:
    """path: of the page. rows: of the table. verdict: what came out, in sentences."""

    path: pathlib.Path
    rows: list[dict[str, Any]]
    verdict: list[str]


def write(demo: Demo, workdir: str, policies: Sequence[str], minutes: float) -> Written:
    """Writes WORKDIR/index.html.

    Args:
      policies: runs that are finished; none: the page shows what the base finds.
      minutes: since the quickstart began.
    """
    folder = pathlib.Path(workdir)
    rows = table_rows(folder, policies)
    searched = ["base", *policies[-1:]]
    answers = {name: read_answers(folder / name, demo) for name in searched}
    verdict = _verdict(rows, answers, demo)
    # Selecting first: the page shows its examples, and the colours are in the order of the runs.
    runs = load_runs([str(folder / name) for name in policies[::-1]], 2) if policies else []
    head, *cells = run_table.cells(rows) if policies else [[]]
    content = render(
        "quickstart.html.j2",
        folder=pathlib.Path(__file__).parent,
        title=demo.title,
        generated=_generated(minutes),
        contents=["Result", "Search", *(["Curves"] if runs else []),
                  *(["Selected and rejected"] if runs else []), "Your own data"],
        verdict=verdict,
        head=head,
        rows=cells,
        table_note="Costs are those of tuning. Retrieval: mean of R@1 and R@5, both ways.",
        search_note=_search_note(answers, demo),
        queries=[_query(query, answers, demo) for query in demo.queries],
        charts=_charts(runs) if runs else [],
        charts_note="Step 0 is the base. Against FLOPs, scoring five pairs for each pair that is "
        "trained on is counted.",
        examples=html_report.examples(runs[0]) if runs else [],
        examples_note="Pairs of one super-batch of the joint run, by what the models made of them.",
        next_steps=NEXT_STEPS,
    )  # fmt: skip
    path = folder / "index.html"
    path.write_text(content, encoding="utf-8")
    return Written(path, rows, verdict)


def table_rows(folder: pathlib.Path, policies: Sequence[str]) -> list[dict[str, Any]]:
    """The base, then each run, with the time and the cost of tuning."""
    if not policies:
        return []
    base = run_table.at_start(str(folder / policies[0]), "base")
    return [base, *(run_history.summarise(str(folder / name)) for name in policies)]


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model found: `hits`, per query the first results; `index`: where the pictures are."""

    hits: list[list[dict[str, Any]]]
    index: ImageIndex

    def n_right(self, demo: Demo) -> int:
        """Queries with a right picture among the first SHOWN."""
        pairs = zip(demo.queries, self.hits, strict=True)
        return sum(any(map(demo.right(q), (h["label"] for h in hits))) for q, hits in pairs)


def read_answers(folder: pathlib.Path, demo: Demo) -> Answers:
    """The results of the demo's queries that `retrieve` wrote for a run."""
    found = parse_json((folder / "queries" / "results.json").read_text(encoding="utf-8"))
    by_text = {query["text"]: query["results"][:SHOWN] for query in found["queries"]}
    hits = [by_text[query.text] for query in demo.queries]
    return Answers(hits, ImageIndex.open(folder / "index"))


def share_right(query: Query, answers: Answers, demo: Demo) -> float:
    """Of all pictures that are searched."""
    right = demo.right(query)
    return sum(right(item.label) for item in answers.index.items) / len(answers.index)


def _query(query: Query, answers: dict[str, Answers], demo: Demo) -> dict[str, Any]:
    right, place = demo.right(query), demo.queries.index(query)
    said = f"of the class {query.right_class}" if query.right_class else f"named {query.right_word}"
    return {
        "text": query.text,
        "right": said,
        "share": f"{share_right(query, answers['base'], demo):.1%}",
        "answers": [
            (_told(name), [_card(hit, of.index, right(hit["label"])) for hit in of.hits[place]])
            for name, of in answers.items()
        ],
    }


def _card(hit: dict[str, Any], index: ImageIndex, is_right: bool) -> dict[str, Any]:
    picture = read_picture(index.thumbnail(index.items[hit["row"]]))
    details = [f"{'✓ right, ' if is_right else ''}{hit['score']:.2f}"]
    return {
        "image": data_uri(picture), "text": hit["label"], "details": details, "mark": is_right
    }  # fmt: skip


def _told(name: str) -> str:
    return "the base" if name == "base" else f"the {name} run"


def _search_note(answers: dict[str, Answers], demo: Demo) -> str:
    chance = sum(
        1 - (1 - share_right(query, answers["base"], demo)) ** SHOWN for query in demo.queries
    )
    told = ", ".join(f"{of.n_right(demo)} by {_told(name)}" for name, of in answers.items())
    n = len(answers["base"].index)
    return (
        f"The first {SHOWN} of {n:,} pictures that no run trained on. Queries with a right picture "
        f"among them, of {len(demo.queries)}: {told}, {chance:.1f} by chance. The data's captions "
        "and classes say what is right; the queries were written down before any run."
    )


def _verdict(rows: list[dict], answers: dict[str, Answers], demo: Demo) -> list[str]:
    """What tuning did to the base, one sentence a run."""
    if not rows:
        n_right, n = answers["base"].n_right(demo), len(demo.queries)
        return [
            f"The base finds a right picture for {n_right} of {n} queries. Two runs tune it now; "
            "afterwards this page compares them."
        ]
    before, lines = run_history.retrieval_score(rows[0]), []
    for row in rows[1:]:
        score = run_history.retrieval_score(row)
        how = "on everything" if row["policy"] == "uniform" else "on what it selects"
        line = f"Tuning {how} ({row['name']}, {row['steps']:,} steps): retrieval {before:.1%} → "
        line += f"{score:.1%}"
        if row.get("zero_shot_accuracy") is not None:
            line += (
                f", zero-shot {rows[0]['zero_shot_accuracy']:.1%} → {row['zero_shot_accuracy']:.1%}"
            )
        if row.get("picked_broken") is not None:
            line += f"; {row['picked_broken']:.0%} of its pairs were noisy"
        lines.append(line + ".")
    return [*lines, "One seed each: small differences can be chance."]


def _charts(runs: Sequence[RunHistory]) -> list[tuple[str, list]]:
    of_axes = html_report.evaluations(runs, [f"eval/{name}" for name in CURVES])["charts"]
    return [*of_axes, ("What was trained on", html_report.labelled(runs)[:2])]


def _generated(minutes: float) -> str:
    from jest_tf.monitoring import environment

    here = environment.collect()
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{now}, {minutes:.1f} minutes on {here['n_cpus']} cores of {here['cpu']}"
