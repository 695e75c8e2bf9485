"""The page that answers "should I select, and how?", and docs/results.json beside it.

From the runs that tune the shipped base, the runs from nothing and the comparison without training
(`benchmarks.bq`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.evidence import anew_page, mates_page, picks, suites, tuning, variants_page
from benchmarks.evidence.analysis import (
    SCORES,
    RowResults,
    at_equal,
    paired,
    spent_by,
    truth_of,
)
from benchmarks.evidence.claims import MARGIN, equivalent, verdict
from benchmarks.evidence.curves import Mean, mean_of
from benchmarks.evidence.markdown import interval, percent, points, ratio, table
from benchmarks.evidence.page import Shown, render

Rows = Mapping[str, RowResults]
COMMAND = "python -m benchmarks.evidence --suite={}"
# From the weaker base: these have three seeds.
PHOTOS_TOP_K, PHOTOS_JOINT, PHOTOS_UNIFORM = map(
    tuning.on_first_base, (*tuning.PHOTO_NAMES, tuning.PHOTOS_UNIFORM)
)
# Rows whose seeds took about the same seconds a step. Other work slowed the others, some tenfold.
TIMED = {PHOTOS_TOP_K, PHOTOS_JOINT}


class Evidence(NamedTuple):
    """What the page is made from. tuned: finished runs by row, those from nothing too. trials:
    results on the trial seed, by name. bq: lines of `benchmarks.bq`. pool: described."""

    tuned: Rows
    trials: Mapping[str, Mapping]
    bq: Sequence[Mapping[str, Any]]
    pool: Mapping[str, Any]

    @property
    def recipe(self) -> RowResults | None:
        return self.tuned.get(tuning.RECIPE)

    def difference(self, a: str, b: str, score: str = "retrieval") -> Mean | None:
        """Final test score of a minus that of b, paired by seed."""
        if a not in self.tuned or b not in self.tuned:
            return None
        return paired(self.tuned[a].test(score), self.tuned[b].test(score))

    def over_base(self, name: str, score: str = "retrieval") -> Mean | None:
        """Final test score of a row minus that of the base that it tunes."""
        if name not in self.tuned:
            return None
        cells = self.tuned[name].cells
        return mean_of([cell["test"][score] - cell["test"]["base"][score] for cell in cells])


def page(evidence: Evidence, shown: Shown) -> str:
    """The whole page as Markdown."""
    recipe = evidence.recipe
    base = recipe.one["test"]["base"] if recipe else {"retrieval": 0.0, "zero_shot": 0.0}
    return render(
        "tuning.md.j2",
        shown,
        recipe=recipe.row.label if recipe else "",
        decisions=_decisions(evidence),
        base={name: f"{100 * value:.1f}" for name, value in base.items()},
        tuned=_runs(evidence, tuning.SHOWN),
        photos=_runs(evidence, [row.name for row in (*tuning.PHOTO_ROWS, *tuning.PHOTO_STAGES)]),
        photos_new=_from_nothing_on_photographs(evidence),
        anew=anew_page.table_of(evidence.tuned, evidence.pool),
        claims=_claims(evidence),
        margin=f"{100 * MARGIN:g}",
        goals=_goals(results_json(evidence)),
        mates=mates_page.table_of(evidence.bq),
        predictions=mates_page.predictions(evidence.bq),
        sizes=_sizes(evidence),
        noise=_noise(evidence),
        noisy=percent(_noisy(evidence)) if recipe else "?",
        trial_seed=tuning.TRIAL_SEED,
        reference=percent(evidence.tuned[suites.ANEW_REFERENCE].test_mean())
        if suites.ANEW_REFERENCE in evidence.tuned
        else "",
        n_variants=len(tuning.VARIANTS),
    )


def readme_part(evidence: Evidence) -> str:
    """The short answer for the project's front page, the strongest baseline also where it wins."""
    lines = "\n".join(f"- {line}" for line in short_answer(evidence))
    return f"{lines}\n\n{_runs(evidence, tuning.SHOWN)}\n"


def short_answer(evidence: Evidence) -> list[str]:
    """The result in a few sentences."""
    if not evidence.recipe:
        return ["Not measured yet."]
    d, over = evidence.difference, evidence.over_base
    base, steps = evidence.recipe.one["test"]["base"]["retrieval"], _sizes(evidence)["steps"]
    said = [
        f"The recipe ({evidence.recipe.row.label}, {steps} steps) moves the base from "
        f"{100 * base:.1f}% of retrieval by {interval(over(tuning.RECIPE))} points (95% interval), "
        f"at the FLOPs of uniform steps: the stored scores of the reference decide alone. "
        f"{percent(_noisy(evidence))}% of the selected pairs are noisy, 40% of the pool."
    ]
    if tuning.UNIFORM_FLOPS in evidence.tuned:
        said.append(
            "Tuning on all pairs (uniform sampling) moves the base by "
            f"{interval(over(tuning.UNIFORM_FLOPS))} points, in a third of the steps."
        )
    if tuning.LONG_CLIPSCORE in evidence.tuned:
        gains = (interval(d(tuning.RECIPE, tuning.LONG_CLIPSCORE, score)) for score in SCORES)
        said.append(
            "The recipe minus offline CLIPScore (the best 30%) at the same FLOPs is {} points of "
            "retrieval, {} of zero-shot.".format(*gains)
        )
    first = tuning.on_first_base(tuning.RECIPE)
    if first in evidence.tuned:
        said.append(
            f"A weaker base ({_of_base(evidence.tuned[first])}%), on which the recipe was chosen, "
            f"moved by {interval(over(first))} points."
        )
    return said + _said_of_nothing(evidence)


def _said_of_nothing(evidence: Evidence) -> list[str]:
    """What selecting owes a reader who has no model yet, and where it makes no difference."""
    said, rows = [], evidence.tuned
    names = suites.ANEW_REFERENCE, suites.ANEW_RECIPE, suites.ANEW_CLIPSCORE, suites.ANEW_UNIFORM
    if all(name in rows for name in names):
        scores = (f"{percent(rows[name].test_mean())}%" for name in names)
        cost = spent_by(rows[suites.ANEW_REFERENCE], "flops_cached") / 1e12
        said.append(
            "From nothing, for about the same FLOPs, training on the curated pairs alone ends at "
            "{} of retrieval, the recipe with distillation at {}, the best 30% by CLIPScore at {}, "
            "uniform sampling at {}. The recipe and CLIPScore choose by a reference, which is that "
            "curated training: {:.1f} TFLOP more.".format(*scores, cost)
        )
    if difference := evidence.difference(PHOTOS_JOINT, PHOTOS_TOP_K):
        said.append(
            "From the weaker base, at b = 128 on photographs, joint selection minus independent "
            f"top-k is {interval(difference)} points: no difference was shown."
        )
    if difference := evidence.difference(tuning.PHOTOS_RECIPE, tuning.PHOTOS_UNIFORM):
        said.append(
            "On those photographs, which the base does not know, the recipe minus uniform sampling "
            f"is {interval(difference)} points at equal FLOPs."
        )
    return said


def _decisions(evidence: Evidence) -> str:
    """Situation -> policy -> gain; intervals are of 95%."""
    body, d = [], evidence.difference
    tuned, new = "a good model, noisy pairs", "no model yet"
    photos = "photographs, b·q 1.7 by class"
    recipe, few, distilled = tuning.RECIPE, "joint, greedy", "the recipe, distilled"
    short, brief = tuning.JOINT_PREFILTERED, "the short recipe"
    if over := evidence.over_base(recipe):
        body.append([f"{tuned}; instead of no tuning", "the recipe", interval(over), "-", "-"])
    # Situation, instead of, policy, its row, the row at equal steps, the row at equal FLOPs.
    for what, instead, policy, name, steps, flops in (
        (tuned, "everything", brief, short, "", tuning.UNIFORM_FLOPS),
        (tuned, "the best 30% by CLIPScore", "the recipe", recipe, tuning.LONG_CLIPSCORE,
         tuning.LONG_CLIPSCORE),
        (tuned, "independent top-k, prefiltered too", brief, short,
         *[tuning.TOP_K_PREFILTERED] * 2),
        (photos, "independent top-k", few, PHOTOS_JOINT, PHOTOS_TOP_K, PHOTOS_TOP_K),
        (photos, "everything", "the recipe", tuning.PHOTOS_RECIPE, *[tuning.PHOTOS_UNIFORM] * 2),
        (photos, "everything", "uniform, then the recipe", tuning.PHOTOS_THEN_RECIPE, "",
         tuning.PHOTOS_LONG),
        (new, "everything", distilled, suites.ANEW_RECIPE, *[suites.ANEW_UNIFORM] * 2),
        (new, "that set alone", distilled, suites.ANEW_RECIPE, "", suites.ANEW_REFERENCE),
        (new, "the best 30% by CLIPScore", distilled, suites.ANEW_RECIPE,
         *[suites.ANEW_CLIPSCORE] * 2),
    ):  # fmt: skip
        seconds = _at_equal_seconds(evidence, name, flops or steps)
        gains = [interval(gain) for gain in (d(name, steps), d(name, flops), seconds)]
        if gains != ["-"] * 3:
            body.append([f"{what}; instead of {instead}", policy, *gains])
    heads = ["situation", "policy", "gain at equal steps", "at equal FLOPs", "at equal seconds"]
    return table(heads, body)


def _at_equal_seconds(evidence: Evidence, a: str, b: str) -> Mean | None:
    """Last score of a minus the score of b when it had run as long, on the curves."""
    if a not in evidence.tuned or b not in evidence.tuned or not {a, b} <= TIMED:
        return None
    ours, theirs = evidence.tuned[a], evidence.tuned[b]
    gains = []
    for seed in sorted(set(ours.by_seed) & set(theirs.by_seed)):
        one = RowResults(theirs.row, {seed: theirs.by_seed[seed]})
        budget = ours.by_seed[seed]["curve"]["seconds"][-1]
        reading, _ = at_equal(one, "seconds", budget, "retrieval")
        gains.append(ours.by_seed[seed]["curve"]["retrieval"][-1] - reading.mean)
    return mean_of(gains)


def _runs(evidence: Evidence, names: Sequence[str]) -> str:
    """A table of rows; its last column, where there are such runs, from the weaker base."""
    body, rows, bases = [], evidence.tuned, []
    weaker = {name: rows[first] for name in names if (first := tuning.on_first_base(name)) in rows}
    for name in (name for name in names if name in rows or name in weaker):
        row = rows.get(name, weaker.get(name))  # of what the weaker base alone was tuned by, less
        is_shown, truth = name in rows, truth_of(row, evidence.pool)
        bases += [row] if is_shown else []
        n_seeds = f" ({len(row.cells)} seed{'s' if len(row.cells) > 1 else ''})"
        body.append(
            [
                row.row.label + (n_seeds if is_shown else ""),
                f"{spent_by(row, 'step'):.0f}",
                f"{spent_by(row, 'flops_cached') / 1e12:.1f}",
                percent(row.test_mean("retrieval")) if is_shown else "-",
                percent(row.test_mean("zero_shot")) if is_shown else "-",
                percent(truth["broken"]) if is_shown and truth else "-",
                percent(weaker[name].test_mean()) if name in weaker else "-",
            ]
        )
    if bases:
        scores = (_of_base(bases[0], name) for name in ("retrieval", "zero_shot"))
        before = _of_base(next(iter(weaker.values()))) if weaker else "-"
        body.insert(0, ["no tuning: the base", "0", "0", *scores, "-", before])
    heads = ["trained by", "steps", "TFLOP", "retrieval", "zero-shot", "noisy selected",
             "retrieval, from the weaker base"]  # fmt: skip
    if not weaker:
        heads, body = heads[:-1], [cells[:-1] for cells in body]
    return table(heads, body) if body else ""


def _of_base(row: RowResults, score: str = "retrieval") -> str:
    """What the base that a row tunes scores on the test part, in %."""
    return f"{100 * row.one['test']['base'][score]:.1f}"


def _from_nothing_on_photographs(evidence: Evidence) -> str:
    """Final scores of the rows, in words."""
    rows = [evidence.tuned[r.name] for r in tuning.PHOTO_NEW_ROWS if r.name in evidence.tuned]
    return "; ".join(f"{row.row.label}: {percent(row.test_mean())}" for row in rows)


def trial_records(trials: Mapping[str, Mapping]) -> list[dict[str, Any]]:
    """What was tried on the trial seed, for a CSV file: scores on the validation part, 0..1."""
    records = []
    for row in (*tuning.TRIALS, *suites.ANEW_TRIALS):
        if row.name not in trials:
            continue
        cell = trials[row.name]
        curve = cell["curve"]
        records.append(
            {
                "trial": row.label.removesuffix(", same FLOPs"),
                "steps": curve["step"][-1],
                "learning_rate": cell["config"]["optimizer"]["learning_rate"],
                "retrieval": curve["retrieval"][-1],
                "zero_shot": curve["zero_shot"][-1],
                "noisy_selected": picks.broken(cell["picks"]["after_warmup"]),
            }
        )
    return records


def _claims(evidence: Evidence) -> str:
    """Each claim with the interval that decides it."""
    d, over = evidence.difference, evidence.over_base
    recipe, short, new = tuning.RECIPE, tuning.JOINT_PREFILTERED, suites.ANEW_RECIPE
    first = tuning.on_first_base
    stated = [
        ("Tuning on everything makes the base worse (161 steps).",
         _minus(over(tuning.UNIFORM_FLOPS)), verdict),
        ("The recipe makes the base better.", over(recipe), verdict),
        ("The short recipe beats uniform sampling at equal FLOPs.",
         d(short, tuning.UNIFORM_FLOPS), verdict),
        ("The recipe beats offline CLIPScore, best 30%, at equal FLOPs.",
         d(recipe, tuning.LONG_CLIPSCORE), verdict),
        ("The recipe beats offline CLIPScore, best 30%, in zero-shot.",
         d(recipe, tuning.LONG_CLIPSCORE, "zero_shot"), verdict),
        ("From the weaker base, the recipe beats offline CLIPScore, best 10%.",
         d(first(recipe), first(tuning.LONG_TENTH)), verdict),
        ("From the weaker base, the recipe beats the first recipe at equal FLOPs.",
         d(first(recipe), first(tuning.FIRST)), verdict),
        ("The short recipe beats offline CLIPScore at equal FLOPs.",
         d(short, tuning.CLIPSCORE), verdict),
        ("The same, CLIPScore at the short recipe's rate, 1e-4.",
         d(short, tuning.CLIPSCORE_LOW), verdict),
        ("The short recipe equals top-k behind the same prefilter.",
         d(short, tuning.TOP_K_PREFILTERED), equivalent),
        ("On photographs, from the weaker base, joint beats independent top-k.",
         d(PHOTOS_JOINT, PHOTOS_TOP_K), verdict),
        ("From it, joint selection beats uniform sampling there at equal FLOPs.",
         d(PHOTOS_JOINT, PHOTOS_UNIFORM), verdict),
        ("On photographs the recipe beats uniform sampling at equal FLOPs.",
         d(tuning.PHOTOS_RECIPE, tuning.PHOTOS_UNIFORM), verdict),
        ("On photographs the recipe beats offline CLIPScore at equal FLOPs.",
         d(tuning.PHOTOS_RECIPE, tuning.PHOTOS_CLIPSCORE), verdict),
        ("There, uniform sampling and then the recipe by that model beats uniform sampling alone.",
         d(tuning.PHOTOS_THEN_RECIPE, tuning.PHOTOS_LONG), verdict),
        ("From nothing, the recipe, distilled, beats uniform sampling at equal FLOPs.",
         d(new, suites.ANEW_UNIFORM), verdict),
        ("From nothing, it beats offline CLIPScore at equal FLOPs.",
         d(new, suites.ANEW_CLIPSCORE), verdict),
    ]  # fmt: skip
    body = [
        [text, f"**{judge(found)}**", interval(found), str(found.n)]
        for text, found, judge in stated
        if found is not None
    ]
    return table(["claim", "verdict", "points [95% interval]", "seeds"], body) if body else ""


def _minus(mean: Mean | None) -> Mean | None:
    return mean and Mean(-mean.mean, mean.error, mean.n)


def results_json(evidence: Evidence) -> list[dict[str, Any]]:
    """The goals: {figure, value, goal, reached, seeds, command, revision, note}."""
    rows, found = evidence.tuned, []

    def add(figure, value, goal, reached, used: Sequence[RowResults], suite, note):
        cells = [cell for row in used for cell in row.cells]
        revisions = sorted({c["made"]["git"]["revision"][:9] for c in cells if c["made"]["git"]})
        found.append(
            {
                "figure": figure,
                "value": None if value is None else float(f"{value:.4g}"),
                "goal": goal,
                "reached": reached,
                "seeds": min((len(row.cells) for row in used), default=0),
                "command": COMMAND.format(suite),
                "revision": ", ".join(revisions),
                "note": note,
            }
        )

    for one in anew_page.speeds(rows):
        value, goal = one.ratio and one.ratio.mean, f">= {one.goal}"
        add(one.figure, value, goal, one.reached, one.used, "from_nothing", one.note)
    recipe = evidence.recipe
    for figure, compared in (
        ("tuning_gain_over_uniform_every_seed",
         [(tuning.JOINT_PREFILTERED, tuning.UNIFORM_FLOPS)]),
        ("tuning_gain_over_base_every_seed", [(tuning.RECIPE, "")]),
        ("ahead_of_clipscore_every_seed",
         [(tuning.RECIPE, tuning.LONG_CLIPSCORE),
          tuple(map(tuning.on_first_base, (tuning.RECIPE, tuning.LONG_CLIPSCORE))),
          (tuning.JOINT_PREFILTERED, tuning.CLIPSCORE),
          (suites.ANEW_RECIPE, suites.ANEW_CLIPSCORE),
          (suites.ANEW_RECIPE, suites.ANEW_DISTILLED),
          (suites.ANEW_JOINT, suites.ANEW_CLIPSCORE)]),
    ):  # fmt: skip
        compared = [(ours, than, _gains(rows, ours, than)) for ours, than in compared]
        used = [rows[name] for pair in compared for name in pair[:2] if name in rows]
        gains = [gain for *_, of_seeds in compared for gain in of_seeds]
        value = float(all(gain > 0 for gain in gains)) if gains else None
        notes = [
            f"`{ours}` minus {f'`{than}` at equal FLOPs' if than else 'the base'}: "
            + ", ".join(f"{100 * gain:+.1f}" for gain in of_seeds)
            for ours, than, of_seeds in compared
            if of_seeds
        ]
        note = f"points of test retrieval by seed: {'; '.join(notes)}" if notes else "not measured"
        add(figure, value, "1", value == 1, used, "tuning", note)
    difference = mean_of(variants_page.differences(rows))
    known = difference is not None and difference.error
    sigmas = difference.mean / difference.error if known else None
    used = [rows[name] for pair in variants_page.near_mates() for name in pair if name in rows]
    note = "not measured"
    if known:
        note = (
            f"{points(difference)} points, greedy, {difference.n} pairs of runs: photographs, "
            "neighbours ([variants.md](variants.md))"
        )
    figure = "joint_minus_top_k_sigmas_where_bq_above_1"
    add(figure, sigmas, "> 2", sigmas and sigmas > 2, used, "mates", note)
    share = _noisy(evidence).mean if recipe else None
    note = f"share among the selected after warm-up, `{tuning.RECIPE}`; 0.40 of the pool"
    figure = "noisy_share_tuning"
    used = [recipe] if recipe else []
    add(figure, share, "<= 0.06", share is not None and share <= 0.06, used, "tuning", note)
    return [one | {"reached": bool(one["reached"])} for one in found]


def _gains(rows: Rows, name: str, than: str) -> list[float]:
    """Of a row's final test score by seed: over another row, or over the base."""
    if name not in rows or (than and than not in rows):
        return []
    if not than:
        return [c["test"]["retrieval"] - c["test"]["base"]["retrieval"] for c in rows[name].cells]
    ours, theirs = rows[name].test(), rows[than].test()
    return [ours[seed] - theirs[seed] for seed in sorted(set(ours) & set(theirs))]


def _goals(found: Sequence[Mapping[str, Any]]) -> str:
    body = [
        [
            f"`{one['figure']}`",
            one["goal"],
            "not measured" if one["value"] is None else f"{one['value']:.3g}",
            "" if one["value"] is None else "reached" if one["reached"] else "missed",
            one["note"],
        ]
        for one in found
    ]
    return table(["figure", "goal", "value", "", "what it is"], body)


def _noisy(evidence: Evidence) -> Mean:
    return truth_of(evidence.recipe, evidence.pool)["broken"]


def _noise(evidence: Evidence) -> str:
    """Of the recipe's selected pairs: the largest kinds of noise, in words."""
    if not evidence.recipe:
        return ""
    truth = truth_of(evidence.recipe, evidence.pool)
    kinds = sorted(picks.emoji.NOISY & set(truth), key=lambda kind: -truth[kind].mean)
    return ", ".join(f"{kind.replace('_', ' ')} {percent(truth[kind])}%" for kind in kinds)


def _sizes(evidence: Evidence) -> dict[str, Any]:
    """b, B and steps of the selecting runs, what storing the reference's embeddings costs, and the
    seconds of a step over those of a uniform one, of runs made in the same way."""
    row = evidence.recipe
    if not row:
        return dict.fromkeys(("b", "B", "steps", "stored", "slower"), "?")
    uniform, slower = evidence.tuned.get(tuning.LONG_CLIPSCORE), None
    if uniform:
        seconds = [
            [one.by_seed[seed]["curve"]["seconds"][-1] for seed in uniform.by_seed]
            for one in (row, uniform)
        ]
        slower = ratio(mean_of([a / b for a, b in zip(*seconds, strict=True)]))
    curve, selection = row.one["curve"], row.one["config"]["selection"]
    scored = curve["step"][-1] * selection["super_batch"]
    forward = (curve["flops"][-1] - curve["flops_cached"][-1]) / scored
    return {
        "b": selection["sub_batch"],
        "B": selection["super_batch"],
        "steps": curve["step"][-1],
        "stored": f"{forward * evidence.pool['n'] / 1e12:.1f}",
        "slower": slower,
    }
