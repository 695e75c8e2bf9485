"""docs/variants.md: one thing changed of the short recipe, and trainings with near mates."""

from collections.abc import Mapping

from benchmarks.evidence import tuning
from benchmarks.evidence.analysis import RowResults, paired, spent_by, truth_of
from benchmarks.evidence.claims import OPEN
from benchmarks.evidence.curves import Mean, mean_of
from benchmarks.evidence.markdown import percent, points, table
from benchmarks.evidence.page import Shown, render

Rows = Mapping[str, RowResults]


def page(shown: Shown) -> str:
    """The whole page as Markdown."""
    return render(
        "variants.md.j2",
        shown,
        variants=_variants(shown),
        mates=_mates(shown.rows),
        pooled=points(pooled) if (pooled := mean_of(differences(shown.rows))) else "",
        code=tuning.CODE_OF_TRIALS,
    )


def _variants(shown: Shown) -> str:
    rows, body = shown.rows, []
    recipe, *others = map(tuning.on_first_base, (tuning.JOINT_PREFILTERED, *tuning.VARIANTS))
    if recipe not in rows:
        return ""
    recipe = rows[recipe]
    for row in [recipe, *(rows[name] for name in others if name in rows)]:
        gain = None if row is recipe else paired(row.test(), recipe.test())
        truth = truth_of(row, shown.pool)
        body.append(
            [
                "the short recipe" if row is recipe else row.row.label,
                f"{len(row.cells)}",
                f"{spent_by(row, 'step'):.0f}",
                percent(row.test_mean()),
                "-" if gain is None else points(gain),
                "-" if gain is None else _beyond(gain),
                percent(row.test_mean("zero_shot")),
                percent(truth["broken"]) if truth else "-",
            ]
        )
    heads = ["what is changed", "seeds", "steps", "retrieval", "minus the short recipe", "",
             "zero-shot", "noisy selected"]  # fmt: skip
    return table(heads, body)


def _beyond(gain: Mean) -> str:
    """Whether a difference is beyond two standard errors, and to which side."""
    if not gain.beyond_noise:
        return OPEN
    return "better" if gain.mean > 0 else "worse"


def near_mates() -> list[tuple[str, str]]:
    """The rows of joint selection and of top-k where b·q is above 1."""
    top_k, joint = tuning.PHOTO_NAMES
    first = tuning.on_first_base
    mates = [_policies(name) for name, one in tuning.MATES.items() if one.bq > 1]
    return [(joint, top_k), (first(joint), first(top_k)), *mates]


def _policies(name: str) -> tuple[str, str]:
    joint, top_k = (f"{policy}_{name}" for policy in tuning.MATE_POLICIES)
    return joint, top_k


def differences(rows: Rows) -> list[float]:
    """Joint minus top-k at every seed of every setting whose b·q is above 1."""
    found = []
    for ours, theirs in near_mates():
        if ours in rows and theirs in rows:
            a, b = rows[ours].test(), rows[theirs].test()
            found += [a[seed] - b[seed] for seed in sorted(set(a) & set(b))]
    return found


def _mates(rows: Rows) -> str:
    body = []
    for name, mates in tuning.MATES.items():
        ours, theirs = map(rows.get, _policies(name))
        if ours and theirs:
            gain = paired(ours.test(), theirs.test())
            start = f"{100 * ours.one['test']['base']['retrieval']:.1f}"
            scores = (percent(row.test_mean()) for row in (theirs, ours))
            n_seeds = str(len(ours.cells))
            what = [mates.label, str(mates.b), f"{mates.bq:g}", n_seeds]
            body.append([*what, start, *scores, points(gain), _beyond(gain)])
    heads = [
        "rows",
        "b",
        "b·q",
        "seeds",
        "no tuning",
        "independent top-k",
        "joint, greedy",
        "joint minus top-k",
        "",
    ]
    return table(heads, body) if body else ""
