"""The declared experiments on tuning the shipped base: on the noisy emoji pool, on photographs.

The base is the start and the reference, and does not change with the seed: a seed is the data order
and the draws. A selecting run scores STEPS * 640 pairs and trains on STEPS * 128; FLOPS_STEPS
uniform steps cost the same, the reference's embeddings being stored.
"""

from benchmarks.evidence.grid import (
    ABLATION,
    BASE,
    BASE_CACHE,
    BEST_PAIRS,
    HEADLINE,
    PHOTOS,
    RATE,
    TRIAL,
    Row,
)

CONFIG, PHOTOS_CONFIG = "examples/emoji/tune.py", "examples/photos/tune.py"
STEPS, FLOPS_STEPS = 60, 161  # a test checks that both cost the same
MAIN_SEEDS, FEW_SEEDS, PHOTO_SEEDS = (0, 1, 2, 3, 4), (0, 1), (0, 1, 2)
TRIAL_SEED = 100  # reported nowhere else
RATES = (1e-4, 3e-4)
GREEDY, DISTILS = {"selection.greedy": True}, {"reference.distillation": 1.0}
# Half of each loaded super-batch is passed over by the stored scores: the learner scores the rest.
PREFILTERED = {"data.prefilter": 0.5, "selection.super_batch": 320}
QUIET = {"log.samples_every_steps": 1000}  # keeps no pictures
FROM_BASE = {"model.init": BASE} | QUIET
CACHED = {"reference.cache": BASE_CACHE}

UNIFORM, UNIFORM_FLOPS, UNIFORM_DISTILLED = "uniform", "uniform_flops", "uniform_distilled"
CLIPSCORE = "clipscore_flops"
TOP_K, SAMPLED, JOINT = "top_k", "joint_sampled", "joint_greedy"
JOINT_DISTILLED, JOINT_PREFILTERED = "joint_greedy_distilled", "joint_prefiltered"
# The one recipe of the claims. Empty until the trials are done, and chosen on their validation part
# before its five seeds run.
RECIPE = ""

# Name -> policy, label, steps, overrides, name of its trials of learning rates if it has any.
_ROWS = {
    UNIFORM: ("uniform", "uniform, same steps", STEPS, {}, UNIFORM),
    UNIFORM_FLOPS: ("uniform", "uniform, same FLOPs", FLOPS_STEPS, {}, UNIFORM),
    CLIPSCORE: (
        "uniform", "offline CLIPScore, best 30%, same FLOPs", FLOPS_STEPS,
        {"data.train": BEST_PAIRS}, "clipscore",
    ),
    TOP_K: ("independent_top_k", "independent top-k", STEPS, CACHED, ""),
    SAMPLED: ("joint", "joint, sampled", STEPS, CACHED, ""),
    JOINT: ("joint", "joint, greedy", STEPS, CACHED | GREEDY, ""),
    JOINT_DISTILLED: (
        "joint", "joint, greedy, distilled", STEPS, CACHED | GREEDY | DISTILS, "",
    ),
    JOINT_PREFILTERED: (
        "joint", "joint, greedy, prefiltered", STEPS, CACHED | GREEDY | PREFILTERED, "",
    ),
    UNIFORM_DISTILLED: ("uniform", "uniform, distilled", STEPS, CACHED | DISTILS, UNIFORM),
}  # fmt: skip
CLAIMED = (UNIFORM, UNIFORM_FLOPS, CLIPSCORE, TOP_K)
# What is tried on the trial seed at the config's rate, to choose the recipe.
CANDIDATES = (JOINT, JOINT_DISTILLED, JOINT_PREFILTERED, SAMPLED)


def _row(name: str) -> Row:
    policy, label, steps, overrides, trials = _ROWS[name]
    is_claimed = name in (*CLAIMED, RECIPE)
    return Row(
        name,
        label,
        HEADLINE if is_claimed else ABLATION,
        f"policy={policy},steps={steps},validate_every={-(-steps // 2)}",
        tuple((FROM_BASE | overrides).items()),
        MAIN_SEEDS if is_claimed else FEW_SEEDS,
        tuned_as=(trials,) if trials else (),
        config=CONFIG,
    )


def _trial(name: str, policy: str, label: str, overrides: dict) -> Row:
    argument = f"policy={policy},steps={STEPS},validate_every={STEPS // 2}"
    overrides = tuple((FROM_BASE | overrides).items())
    return Row(name, label, TRIAL, argument, overrides, (TRIAL_SEED,), config=CONFIG)


def _trials() -> list[Row]:
    """Two rates for the baselines, in their favour: selecting rows keep the config's. Then the
    candidates for the recipe."""
    tried = {UNIFORM: {}, "clipscore": {"data.train": BEST_PAIRS}}
    rows = [
        _trial(f"tune_{name}_{rate:g}", "uniform", f"learning rate {rate:g}", more | {RATE: rate})
        for rate in reversed(RATES)
        for name, more in tried.items()
    ]
    for name in CANDIDATES:
        policy, label, _, overrides, _ = _ROWS[name]
        rows.append(_trial(f"tune_{name}_{RATES[-1]:g}", policy, label, overrides))
    return rows


# The base has never seen a photograph: its reference is the base tuned on 296 curated pairs.
PHOTOS_REFERENCE = "photos_reference"
PHOTO_NAMES = ("photos_uniform", "photos_top_k", "photos_joint")
_PHOTO_POLICIES = (
    ("uniform", "uniform, same steps", {}),
    ("independent_top_k", "independent top-k", {}),
    ("joint", "joint, greedy", GREEDY),
)


def _photos() -> list[Row]:
    of_all = FROM_BASE | {f"evals.{kind}.every_steps": 0 for kind in ("retrieval", "zero_shot")}
    common = {"config": PHOTOS_CONFIG, "overrides": tuple(of_all.items())}
    where = f"data={PHOTOS}"
    rows = [
        Row(
            PHOTOS_REFERENCE, "the base, tuned on the curated photographs", ABLATION,
            f"reference,steps={STEPS},{where}", seeds=(0,), **common,
        )
    ]  # fmt: skip
    for name, (policy, label, more) in zip(PHOTO_NAMES, _PHOTO_POLICIES, strict=True):
        fields = common | {"overrides": tuple((of_all | more).items())}
        if policy != "uniform":
            fields |= {"reference": PHOTOS_REFERENCE, "reference_seed": 0}
        argument = f"policy={policy},steps={STEPS},{where}"
        rows.append(Row(name, label, HEADLINE, argument, seeds=PHOTO_SEEDS, **fields))
    return rows


TRIALS, TUNED, PHOTO_ROWS = _trials(), [_row(name) for name in _ROWS], _photos()
ROWS = (*TRIALS, *TUNED, *PHOTO_ROWS)
