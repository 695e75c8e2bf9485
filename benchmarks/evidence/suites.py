"""The declared experiments. `--suite` names one of SUITES; `main` and `ablations` share cells.

Sizes are chosen so that a cell takes at most 15 minutes on a CPU core. A selecting run loads as
many examples as the uniform baseline trains on: STEPS * 640 = LONG_STEPS * 128.
"""

import dataclasses

from benchmarks.evidence import tuning
from benchmarks.evidence.grid import ABLATION, CLEAN_POOL, HEADLINE, OWN_BEST, RATE, TRIAL, Row

STEPS, LONG_STEPS, REFERENCE_STEPS = 500, 2500, 1600
QUICK_STEPS, QUICK_LONG_STEPS, QUICK_REFERENCE_STEPS = 250, 1250, 800
# Steps between looks at the validation part, of a selecting run and of the others.
EVERY, LONG_EVERY = 25, 100
MAIN_SEEDS = (0, 1, 2, 3, 4)
ABLATION_SEEDS = (0, 1)
# Apart from the reported seeds, so that choosing on a run does not also report it.
TRIAL_SEED = 100
TRIAL_RATES = (1e-3, 2e-3, 4e-3)
# A quarter of the shipped model's cost, and on these drawings no worse: for many runs, not few.
SMALL = {"model.variant": "nano", "model.patch_size": 12}
# ACED's addition, as heavy as the loss itself: not tuned.
DISTILS = {"reference.distillation": 1.0}
HALVES = {"selection.learner_weight": 0.5}
LARGER = {"model.variant": "mu", "model.patch_size": 8}

# Names that the analysis asks for.
UNIFORM, SAME_STEPS, CURATED = "uniform", "uniform_same_steps", "curated"
TOP_K, JOINT, FLEXI = "independent_top_k", "joint", "flexi"
DISTILLED, FLEXI_DISTILLED, DISTILLED_LONG = "distilled", "flexi_distilled", "distilled_long"
UNIFORM_DISTILLED, JOINT_LONG = "uniform_distilled", "joint_long"
HALF_WEIGHT, FLEXI_HALF_WEIGHT = "weight50_distilled", "flexi_remedies"
FLEXI_MOSTLY_LOW = "flexi_mostly_low"
# Whose trials give joint selection and its variants their learning rate: one trial differs by seed
# as much as by rate. Top-k keeps its own best.
CHOOSING = (TOP_K, JOINT)


@dataclasses.dataclass(frozen=True)
class Suite:
    """What `--suite=NAME` runs (names of rows, with all that they stand on) and where it reports.

    family: suites of one family share cells and a page.
    """

    name: str
    family: str
    rows: tuple[Row, ...]
    wanted: tuple[str, ...]


def _selecting(name: str, label: str, group: str, policy: str = "joint", **fields) -> Row:
    """A row that chooses among B examples; `sizes` and `criterion` may be given."""
    steps = fields.pop("steps", STEPS)
    every = fields.pop("every", EVERY)
    arguments = [f"policy={policy}", f"steps={steps}", f"validate_every={every}"]
    if criterion := fields.pop("criterion", ""):
        arguments.append(f"criterion={criterion}")
    overrides = tuple(fields.pop("overrides", {}).items())
    defaults = {"reference": CURATED, "tuned_as": CHOOSING}
    seeds = MAIN_SEEDS if group == HEADLINE else ABLATION_SEEDS
    values = defaults | {"seeds": seeds} | fields
    return Row(name, label, group, ",".join(arguments), overrides, **values)


def _distilled(name: str, label: str, group: str, **fields) -> Row:
    """A row that chooses and learns the reference's softmax too, with trials of its own."""
    own = fields.pop("overrides", {})
    # In this order, so that a row's own weight of the distillation wins.
    overrides = own | DISTILS | own
    return _selecting(name, label, group, overrides=overrides, tuned_as=(DISTILLED,), **fields)


def _uniform(name: str, label: str, group: str, steps: int, every: int, **fields) -> Row:
    overrides = tuple(fields.pop("overrides", {}).items())
    argument = f"policy=uniform,steps={steps},validate_every={every}"
    seeds = MAIN_SEEDS if group == HEADLINE else ABLATION_SEEDS
    return Row(name, label, group, argument, overrides, **({"seeds": seeds} | fields))


def _curated(name: str, label: str, group: str, steps: int, every: int, **fields) -> Row:
    overrides = tuple(fields.pop("overrides", {}).items())
    argument = f"reference,steps={steps},validate_every={every}"
    seeds = MAIN_SEEDS if group == HEADLINE else ABLATION_SEEDS
    return Row(name, label, group, argument, overrides, **({"seeds": seeds} | fields))


def _trials() -> list[Row]:
    """Three learning rates for every policy of the headline, one seed, the same budget for each."""
    rows = []
    for rate in TRIAL_RATES:
        common = {"seeds": (TRIAL_SEED,), "overrides": {RATE: rate}}
        chosen_by = common | {"reference_seed": 0, "tuned_as": ()}
        distilled = {"overrides": common["overrides"] | DISTILS}

        def name(row: str, rate=rate) -> str:
            return f"tune_{row}_{rate:g}"

        label = f"learning rate {rate:g}"
        short = label, TRIAL, STEPS, EVERY
        rows += [
            _curated(name(CURATED), label, TRIAL, REFERENCE_STEPS, LONG_EVERY, **common),
            _uniform(name(UNIFORM), label, TRIAL, LONG_STEPS, LONG_EVERY, **common),
            _uniform(name(SAME_STEPS), *short, **common),
            _selecting(name(TOP_K), label, TRIAL, TOP_K, **chosen_by),
            _selecting(name(JOINT), label, TRIAL, **chosen_by),
            _selecting(name(DISTILLED), label, TRIAL, **chosen_by | distilled),
            _uniform(name(UNIFORM_DISTILLED), *short, reference=CURATED, **chosen_by | distilled),
        ]
    return rows


def _headline() -> list[Row]:
    return [
        _curated(
            CURATED, "curated only (the reference)", HEADLINE, REFERENCE_STEPS, LONG_EVERY,
            tuned_as=(CURATED,),
        ),
        _uniform(UNIFORM, "uniform", HEADLINE, LONG_STEPS, LONG_EVERY, tuned_as=(UNIFORM,)),
        _uniform(
            SAME_STEPS, "uniform, same steps", HEADLINE, STEPS, EVERY, tuned_as=(SAME_STEPS,)
        ),
        _selecting(TOP_K, "independent top-k", HEADLINE, TOP_K, tuned_as=(TOP_K,)),
        _selecting(JOINT, "joint, learnability", HEADLINE),
        _selecting(FLEXI, "Flexi-JEST", HEADLINE, overrides=FLEXI_FIELDS),
        _distilled(DISTILLED, "joint, distilled", HEADLINE),
        _distilled(FLEXI_DISTILLED, "Flexi-JEST, distilled", HEADLINE, overrides=FLEXI_FIELDS),
        _distilled(
            HALF_WEIGHT, "joint, distilled, learner's weight 0.5", HEADLINE,
            overrides=HALVES,
        ),
        # Pictures as small as scores read them: their resize was half of what Flexi's scores cost.
        _distilled(
            FLEXI_HALF_WEIGHT, "Flexi-JEST, distilled, learner's weight 0.5, 48 px stored",
            HEADLINE,
            overrides=FLEXI_REMEDIES,
        ),
    ]  # fmt: skip


# The paper's larger patches; then the text cheaper too, which is nearly half of a small model.
FLEXI_PATCHES = {"resolution.score.resolution": "48/24", "resolution.low_share": 0.5}
FLEXI_FIELDS = FLEXI_PATCHES | {"resolution.score.n_tokens": 8, "resolution.score.text_depth": 1}
FLEXI_REMEDIES = FLEXI_FIELDS | {"data.image_size": 48} | HALVES


def _ablations() -> list[Row]:
    return [*_of_selection(ABLATION), *_of_models(ABLATION), *_of_distillation(ABLATION)]


def _of_selection(a: str) -> list[Row]:
    """Other policies, criteria, filter ratios, draws and scores."""
    return [
        _uniform(
            "uniform_clean", "uniform on the true-clean part (bound)", a, STEPS, EVERY,
            tuned_as=(SAME_STEPS,), overrides={"data.train": CLEAN_POOL},
        ),
        _selecting(
            "independent_sampled", "independent sampled", a, "independent_sampled",
            tuned_as=(TOP_K,),
        ),
        _selecting("own_rate", "joint, at its own best trial's rate", a, tuned_as=(JOINT,)),
        _selecting("easy", "joint, easy reference", a, criterion="easy_reference"),
        _selecting("hard", "joint, hard learner", a, criterion="hard_learner", reference=""),
        _selecting("f50", "joint, f = 0.5", a, overrides={"selection.super_batch": 256}),
        _selecting(
            "f90", "joint, f = 0.9", a, steps=400, overrides={"selection.super_batch": 1280},
        ),
        _selecting(
            "f95", "joint, f = 0.95", a, steps=220, every=20,
            overrides={"selection.super_batch": 2560},
        ),
        _selecting("chunks4", "joint, 4 chunks", a, overrides={"selection.n_chunks": 4}),
        _selecting("chunks64", "joint, 64 chunks", a, overrides={"selection.n_chunks": 64}),
        # All seeds where a remedy is to be told from noise.
        _selecting(
            "greedy", "joint, greedy", a, seeds=MAIN_SEEDS, overrides={"selection.greedy": True}
        ),
        _selecting(
            "cold", "joint, temperature 0.1", a, overrides={"selection.temperature": 0.1}
        ),
        _selecting(
            "weight50", "joint, learner's weight 0.5", a, seeds=MAIN_SEEDS,
            overrides=HALVES,
        ),
        _selecting(
            "weight50_greedy", "joint, greedy, learner's weight 0.5", a,
            overrides=HALVES | {"selection.greedy": True},
        ),
        _selecting(
            "bias10", "joint, learner's bias starts at -10", a,
            overrides={"model.init_bias": -10.0},
        ),
        _selecting(
            "flexi_untrained", "Flexi scores without training at low resolution", a,
            overrides=FLEXI_FIELDS | {"resolution.low_share": 0.0},
        ),
        _selecting("flexi_patches", "Flexi-JEST, images only", a, overrides=FLEXI_PATCHES),
        _selecting("uncached", "joint, reference not cached", a, caches=False),
    ]  # fmt: skip


def _of_models(a: str) -> list[Row]:
    """Other losses, references, batches and lengths."""
    return [
        _curated(
            "curated_softmax", "curated only, softmax loss", a, REFERENCE_STEPS, LONG_EVERY,
            tuned_as=(CURATED,), overrides={"loss": "softmax"},
        ),
        _uniform(
            "uniform_softmax", "uniform, same steps, softmax loss", a, STEPS, EVERY,
            tuned_as=(SAME_STEPS,), overrides={"loss": "softmax"},
        ),
        _selecting(
            "joint_softmax", "joint, softmax loss", a, reference="curated_softmax",
            overrides={"loss": "softmax"},
        ),
        _curated(
            "curated_large", "curated only, 8x the FLOPs a pair", a, REFERENCE_STEPS, LONG_EVERY,
            overrides=LARGER,
        ),
        _selecting(
            "larger_reference", "joint, larger reference", a, reference="curated_large",
        ),
        _curated(
            "curated_augmented", "curated only, augmented", a, REFERENCE_STEPS, LONG_EVERY,
            tuned_as=(CURATED,), overrides={"data.augment": ("flip", "colour", "cutout")},
        ),
        _selecting(
            "augmented_reference", "joint, augmented reference", a, reference="curated_augmented",
        ),
        _selecting(
            "joint_b256", "joint, b = 256", a, steps=STEPS // 2,
            overrides={"selection.super_batch": 1280, "selection.sub_batch": 256},
        ),
        _selecting(
            "top_k_b256", "independent top-k, b = 256", a, TOP_K, steps=STEPS // 2,
            tuned_as=(TOP_K,),
            overrides={"selection.super_batch": 1280, "selection.sub_batch": 256},
        ),
        _selecting(
            JOINT_LONG, "joint, as many steps as the reference", a, steps=REFERENCE_STEPS,
            every=LONG_EVERY,
        ),
        _selecting("dirty_reference", "joint, reference trained on the pool", a, reference=UNIFORM),
    ]  # fmt: skip


def _of_distillation(a: str) -> list[Row]:
    """What distillation is without selection, and where it goes further with it."""
    return [
        _uniform(
            UNIFORM_DISTILLED, "uniform, same steps, distilled", a, STEPS, EVERY,
            tuned_as=(UNIFORM_DISTILLED,), reference=CURATED, overrides=DISTILS,
        ),
        # A run that is read in the middle of its learning-rate schedule has not annealed.
        _distilled(
            "remedies", "joint, distilled, learner's weight 0.5, short", a, seeds=MAIN_SEEDS,
            steps=240, every=20, overrides=HALVES,
        ),
        _distilled(
            "distilled_twice", "joint, distilled twice as strongly, learner's weight 0.5", a,
            overrides=HALVES | {"reference.distillation": 2.0},
        ),
        # Training at full resolution is the dearest part of what is left of a Flexi step.
        _distilled(
            FLEXI_MOSTLY_LOW, "Flexi-JEST, distilled, weight 0.5, 48 px stored, ¾ trained low", a,
            seeds=MAIN_SEEDS, overrides=FLEXI_REMEDIES | {"resolution.low_share": 0.75},
        ),
        _distilled("top_k_distilled", "independent top-k, distilled", a, policy=TOP_K),
        _distilled(
            "f90_distilled", "joint, f = 0.9, distilled, short", a, steps=300,
            overrides={"selection.super_batch": 1280},
        ),
        _distilled(
            "flexi_short", "Flexi-JEST, distilled, short, 48 px stored", a, steps=300,
            overrides=FLEXI_FIELDS | {"data.image_size": 48},
        ),
        _distilled(
            DISTILLED_LONG, "joint, distilled, as many steps as the reference", a,
            steps=REFERENCE_STEPS, every=LONG_EVERY,
        ),
    ]  # fmt: skip


def _quick() -> list[Row]:
    """Fixed learning rates (the config's), one seed, a quarter of the length."""
    short = {"seeds": (0,), "tuned_as": ()}
    return [
        _curated(
            CURATED, "curated only (the reference)", HEADLINE, QUICK_REFERENCE_STEPS, LONG_EVERY,
            **short,
        ),
        _uniform(UNIFORM, "uniform", HEADLINE, QUICK_LONG_STEPS, LONG_EVERY, **short),
        _selecting(TOP_K, "independent top-k", HEADLINE, TOP_K, steps=QUICK_STEPS, **short),
        _selecting(JOINT, "joint, learnability", HEADLINE, steps=QUICK_STEPS, **short),
    ]  # fmt: skip


# As many steps as cost what 240 steps with full scores cost, the reference cached (a test checks).
SAME_FLOPS, SAME_FLOPS_UNIFORM = 1.737e13, "uniform_same_flops"
APPROXIMATIONS = {
    SAME_FLOPS_UNIFORM: ("uniform, no scores", 651, {}),
    "full_scores": ("full scores", 240, {}),
    "pixels": ("fewer pixels: 32/8", 404, {"resolution": "32/8"}),
    "patches": ("larger patches: 48/16", 496, {"resolution": "48/16"}),
    "patches_untrained": (
        "larger patches, never trained at", 399, {"resolution": "48/16", "low_share": 0.0},
    ),
    "blocks": ("half the blocks", 410, {"image_depth": 2, "text_depth": 1}),
    "tokens": ("half the text tokens", 251, {"n_tokens": 8}),
    "patches_tokens": ("larger patches, half the tokens", 546,
                       {"resolution": "48/16", "n_tokens": 8}),
    # As `cheapest` of `bench.step_cost`, which costs no more than plain training at B/16.
    "cheapest": ("larger patches, half the tokens and text blocks", 600,
                 {"resolution": "48/16", "n_tokens": 8, "text_depth": 1}),
}  # fmt: skip


def _approximations() -> list[Row]:
    """Scores made cheaper, all for the same FLOPs in all; half the sub-batch trains as it scores.

    Four checkpoints of each stay, for the agreement of cheap with full scores along training.
    """
    group, seeds = HEADLINE, (0, 1)
    rows = [_curated(CURATED, "the reference", group, 800, 200, seeds=seeds)]
    for name, (label, steps, score) in APPROXIMATIONS.items():
        low_share = score.get("low_share", 0.5 if score else 0.0)
        score = {k: v for k, v in score.items() if k != "low_share"}
        overrides = {"checkpoint.every_steps": steps // 4, "checkpoint.keep": 5}
        overrides |= {f"resolution.score.{field}": value for field, value in score.items()}
        overrides |= {"resolution.low_share": low_share} if low_share else {}
        fields = {"seeds": seeds, "overrides": overrides}
        if name == SAME_FLOPS_UNIFORM:
            rows.append(_uniform(name, label, group, steps, steps // 8, **fields))
        else:
            fields |= {
                "steps": steps,
                "every": steps // 8,
                "tuned_as": (),
                "agreement": bool(score),
            }
            rows.append(_selecting(name, label, group, **fields))
    return rows


# From nothing anew, with the right vocabulary, on the page of the tuning runs. Rates are those that
# the older trials chose. A selecting run costs the FLOPs of ANEW_FLOPS_STEPS uniform steps (a test
# checks). Top-k and Flexi-JEST were declared too and dropped for want of time.
ANEW_STEPS, ANEW_FLOPS_STEPS, ANEW_REFERENCE_STEPS = 300, 820, 800
ANEW_SEEDS = MAIN_SEEDS
ANEW_REFERENCE, ANEW_UNIFORM = "new_reference", "new_uniform_flops"
ANEW_CLIPSCORE, ANEW_JOINT = "new_clipscore", "new_joint"
ANEW_RECIPE, ANEW_DISTILLED = "new_easy_prefiltered", "new_clipscore_distilled"
# As long as the uniform runs of the older comparison, for which the goals were set.
ANEW_LONG, ANEW_LONG_STEPS = "new_uniform_long", 2500
# What a better reference gives: the shipped base is larger and was trained for longer.
ANEW_BY_BASE, ANEW_BASE_STEPS = "new_by_base", 400
# Names of the options, tried on the trial seed -> the fields. ANEW_CHOSEN was the better of both.
ANEW_OPTIONS = {
    "distilled, learner's weight 0.5": DISTILS | HALVES,
    "distilled, learner's weight 0.5, prefiltered": DISTILS | HALVES | {"data.prefilter": 0.5},
}
ANEW_CHOSEN = "distilled, learner's weight 0.5"
# Filter first, then select: the stored scores pass over what CLIPScore does (32%: whole records of
# each group), joint selection takes every second pair of the rest, at equal FLOPs.
ANEW_FILTERED, ANEW_FILTERED_STEPS, FILTERS = "new_filtered_joint", 482, {"data.prefilter": 0.32}
HALVING = {"selection.super_batch": 256, "selection.greedy": True}
# Tried after those: scores of the reference alone, as in tuning's recipe, so that a step costs the
# FLOPs of a uniform one; and CLIPScore that distils too, by the same stored scores.
ANEW_EASY = (
    DISTILS | {"selection.criterion": "easy_reference"} | tuning.BY_ONE_MODEL | tuning.GREEDY
)
# Name -> label, policy, fields. All had a trial.
ANEW_LATER = {
    "new_easy": ("joint, greedy, by the reference alone, distilled", "joint", ANEW_EASY),
    ANEW_RECIPE: (
        "joint, greedy, prefiltered, by the reference alone, distilled", "joint",
        ANEW_EASY | tuning.PREFILTERED,
    ),
    "new_easy_filtered": (
        "best 32% by CLIPScore, then joint, greedy, by the reference alone, distilled", "joint",
        ANEW_EASY | FILTERS | HALVING,
    ),
    ANEW_CLIPSCORE: (
        "offline CLIPScore by the reference, best 30%", "uniform", {"data.train": OWN_BEST},
    ),
    ANEW_DISTILLED: (
        "best 32% by CLIPScore, distilled", "uniform", FILTERS | DISTILS,
    ),
}  # fmt: skip


def _anew() -> tuple[list[Row], list[Row]]:
    """The rows from nothing, and the trials of their options; all stand on one reference."""

    def at(rate, *more):
        """Pictures as small as the model reads them spend no FLOPs on resizing. On one core
        TensorFlow's own kernels are faster than XLA's."""
        own = {"strategy.jit_compile": False, "log.samples_every_steps": 1000}
        fields = [{RATE: rate, "data.image_size": 48} | own, *more]
        return {name: value for some in fields for name, value in some.items()}

    one, untuned = {"seeds": (0,)}, {"tuned_as": ()}
    by = untuned | {"reference": ANEW_REFERENCE, "reference_seed": 0}
    flops = (ANEW_FLOPS_STEPS, 82)

    def later(name, seeds, every=82):
        label, policy, fields = ANEW_LATER[name]
        argument = f"policy={policy},steps={ANEW_FLOPS_STEPS},validate_every={every}"
        overrides = tuple(at(2e-3, fields).items())
        return Row(name, label, HEADLINE, argument, overrides, seeds, **by)

    def trial_of(row):
        told = {"name": f"tune_{row.name}", "label": f"from nothing: {row.label}"}
        return dataclasses.replace(row, group=TRIAL, seeds=(TRIAL_SEED,), **told)

    rows = [
        _curated(
            ANEW_REFERENCE, "the curated set alone (the reference)", HEADLINE,
            ANEW_REFERENCE_STEPS, LONG_EVERY, overrides=at(2e-3), **one | untuned,
        ),
        _uniform(
            ANEW_UNIFORM, "uniform", HEADLINE, *flops, overrides=at(2e-3),
            **untuned | {"seeds": ANEW_SEEDS},
        ),
        _uniform(
            ANEW_LONG, "uniform, three times as long", HEADLINE, ANEW_LONG_STEPS, LONG_EVERY,
            overrides=at(2e-3), **untuned | {"seeds": ABLATION_SEEDS},
        ),
        later(ANEW_CLIPSCORE, ANEW_SEEDS),
        later(ANEW_DISTILLED, ABLATION_SEEDS),
        # Looked at more often: it has the score of uniform sampling after a tenth of its steps.
        later(ANEW_RECIPE, ANEW_SEEDS, every=41),
        # Half as many steps, for want of time. No rate was tried.
        _selecting(
            ANEW_BY_BASE, "the recipe by the shipped base as reference, distilled", HEADLINE,
            steps=ANEW_BASE_STEPS,
            overrides=at(2e-3, ANEW_EASY | tuning.PREFILTERED | tuning.CACHED),
            **untuned | {"reference": "", "seeds": ABLATION_SEEDS},
        ),
        _selecting(
            ANEW_FILTERED, f"best 32% by CLIPScore, then joint, greedy, {ANEW_CHOSEN}", HEADLINE,
            steps=ANEW_FILTERED_STEPS, every=48,
            overrides=at(2e-3, FILTERS | HALVING | DISTILS | HALVES), **by | one,
        ),
        _selecting(
            ANEW_JOINT, f"joint, {ANEW_CHOSEN}", HEADLINE, steps=ANEW_STEPS,
            overrides=at(2e-3, ANEW_OPTIONS[ANEW_CHOSEN]), **by | one,
        ),
        # DISSect: no reference; the first pass over the pool, 94 steps, has no history.
        _selecting(
            "new_history", "without a reference: whose cosine fell most (DISSect)", ABLATION,
            TOP_K, steps=ANEW_STEPS, criterion="hard_learner",
            overrides=at(2e-3, tuning.BY_ONE_MODEL | {"selection.trial": "history"}),
            **untuned | {"reference": ""},
        ),
    ]  # fmt: skip
    trials = [
        _selecting(
            f"tune_new_joint_{number}", f"from nothing: joint, {name}", TRIAL, steps=ANEW_STEPS,
            overrides=at(2e-3, fields), **by | {"seeds": (TRIAL_SEED,)},
        )
        for number, (name, fields) in enumerate(ANEW_OPTIONS.items())
    ]  # fmt: skip
    return rows, trials + [trial_of(later(name, ())) for name in ANEW_LATER]


def _names(rows: list[Row]) -> tuple[str, ...]:
    return tuple(row.name for row in rows)


def _small(rows: list[Row]) -> list[Row]:
    """The rows with the small model, where they name no other."""
    return [
        dataclasses.replace(row, overrides=tuple((SMALL | dict(row.overrides)).items()))
        for row in rows
    ]


FULL_ROWS = tuple(_small([*_headline(), *_ablations(), *_trials()]))
ANEW, ANEW_TRIALS = (tuple(_small(rows)) for rows in _anew())
RESULTS_ROWS = (*tuning.ROWS, *ANEW_TRIALS, *ANEW)
SUITES = {
    suite.name: suite
    for suite in (
        Suite("main", "full", FULL_ROWS, _names(_headline())),
        Suite("ablations", "full", FULL_ROWS, _names(_ablations())),
        Suite(
            "approximations",
            "approximations",
            tuple(_approximations()),
            _names(_approximations()),
        ),
        Suite("quick", "quick", tuple(_small(_quick())), _names(_quick())),
        Suite("tuning_trials", "tuning", RESULTS_ROWS, _names(tuning.TRIALS)),
        Suite("tuning", "tuning", RESULTS_ROWS, _names(tuning.TUNED)),
        Suite(
            "photographs",
            "tuning",
            RESULTS_ROWS,
            _names([*tuning.PHOTO_ROWS, *tuning.PHOTO_STAGES]),
        ),
        Suite("photographs_anew", "tuning", RESULTS_ROWS, _names(tuning.PHOTO_NEW_ROWS)),
        Suite("mates", "tuning", RESULTS_ROWS, _names(tuning.MATE_ROWS)),
        Suite("from_nothing_trials", "tuning", RESULTS_ROWS, _names(ANEW_TRIALS)),
        Suite("from_nothing", "tuning", RESULTS_ROWS, _names(ANEW)),
    )
}
