"""docs/variants.md: one thing changed of the short recipe, and trainings with near mates."""

from collections.abc import Mapping

from benchmarks.evidence import tuning
from benchmarks.evidence.analysis import RowResults, paired, spent_by, truth_of
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
    if tuning.JOINT_PREFILTERED not in rows:
        return ""
    recipe = rows[tuning.JOINT_PREFILTERED]
    for row in [recipe, *(rows[name] for name in tuning.VARIANTS if name in rows)]:
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
        return "level"
    return "better" if gain.mean > 0 else "worse"


def gain_of(rows: Rows, setting: str) -> Mean | None:
    """Joint minus top-k where b·q is as in `tuning.MATES`."""
    ours, theirs = (rows.get(f"{policy}_{setting}") for policy in tuning.MATE_POLICIES)
    return paired(ours.test(), theirs.test()) if ours and theirs else None


def with_mates() -> list[tuple[str, str]]:
    """Rows of joint selection and of top-k where b·q is above 1, photographs too."""
    settings = [name for name, mates in tuning.MATES.items() if mates.bq > 1]
    joint, top_k = tuning.MATE_POLICIES
    return [
        tuning.PHOTO_NAMES[::-1],
        *((f"{joint}_{name}", f"{top_k}_{name}") for name in settings),
    ]


def differences(rows: Rows) -> list[float]:
    """Joint minus top-k at every seed of every setting whose b·q is above 1."""
    found = []
    for ours, theirs in with_mates():
        if ours in rows and theirs in rows:
            a, b = rows[ours].test(), rows[theirs].test()
            found += [a[seed] - b[seed] for seed in sorted(set(a) & set(b))]
    return found


def _mates(rows: Rows) -> str:
    body = []
    for name, mates in tuning.MATES.items():
        gain = gain_of(rows, name)
        if gain is None:
            continue
        ours, theirs = (rows[f"{policy}_{name}"] for policy in tuning.MATE_POLICIES)
        body.append(
            [
                mates.label, f"{mates.b}", f"{mates.bq:g}", percent(theirs.test_mean()),
                percent(ours.test_mean()), points(gain), _beyond(gain),
            ]
        )  # fmt: skip
    if body:
        start = next(
            iter(rows[f"joint_{name}"] for name in tuning.MATES if f"joint_{name}" in rows)
        )
        body.insert(
            0,
            [
                "no tuning",
                "-",
                "-",
                *[f"{100 * start.one['test']['base']['retrieval']:.1f}"] * 2,
                "-",
                "",
            ],
        )
    heads = [
        "rows",
        "b",
        "b·q by caption",
        "independent top-k",
        "joint, greedy",
        "joint minus top-k",
        "",
    ]
    return table(heads, body) if body else ""
