"""What the ablations ask: causes that may hold joint selection back, and what may help it.

Each is one comparison of two rows that differ in one thing, paired by seed.
"""

from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.evidence import suites
from benchmarks.evidence.analysis import RowResults, paired, truth_of
from benchmarks.evidence.curves import Mean

J, K = suites.JOINT, suites.TOP_K
# (question, the row that has the change, the row without it)
QUESTIONS = (
    ("Is the rate of joint selection's own best trial better?", "own_rate", J),
    ("Does the draw's noise hold joint selection back? The best instead", "greedy", J),
    ("Is the draw too flat? A tenth of the temperature", "cold", J),
    ("Do broken rows tie with learned ones? Half the learner's weight", "weight50", J),
    ("The same without noise", "weight50_greedy", "greedy"),
    ("The same on top of distillation", suites.HALF_WEIGHT, suites.DISTILLED),
    ("Does it miss the rate's decay when read early? The same in 240 steps", "remedies",
     suites.HALF_WEIGHT),
    ("Does more of the reference's softmax help more? Twice as heavy", "distilled_twice",
     suites.HALF_WEIGHT),
    ("Do the pair terms vanish at small b? SigLIP's bias of -10 instead of -log b", "bias10", J),
    ("Do more chunks see more of the pairs? 64 instead of 16", "chunks64", J),
    ("Are few chunks enough? 4 instead of 16", "chunks4", J),
    ("Do the pair terms matter at all? Joint against independent, both sampled", J,
     "independent_sampled"),
    ("The same against the best of independent selection", J, K),
    ("And without noise", "greedy", K),
    ("Does joint selection win at a larger b? Both at b = 256", "joint_b256", "top_k_b256"),
    ("Does a larger b help by itself, at the same number of trained examples?", "joint_b256", J),
    ("Does a stronger, larger reference help?", "larger_reference", J),
    ("Is the reference overfitted? Its training pictures augmented", "augmented_reference", J),
    ("Does a reference trained on the dirty pool do?", "dirty_reference", J),
    ("Does the learner pass its reference at equal steps?", suites.JOINT_LONG, suites.CURATED),
    ("Is a softer filter better? f = 0.5, equal steps", "f50", J),
    ("Does learning the reference's softmax too help?", suites.DISTILLED, J),
    ("Is that selection's merit? Distillation of uniform batches alone", suites.UNIFORM_DISTILLED,
     suites.SAME_STEPS),
    ("What selection adds to distillation", suites.DISTILLED, suites.UNIFORM_DISTILLED),
    ("Joint against independent, both distilled", suites.DISTILLED, "top_k_distilled"),
    ("Does the distilled learner pass its reference at equal steps?", suites.DISTILLED_LONG,
     suites.CURATED),
    ("Does selection help with the softmax loss too?", "joint_softmax", "uniform_softmax"),
    ("Do cached embeddings of the reference change anything?", "uncached", J),
    ("What do the cheap scores of Flexi-JEST cost?", suites.FLEXI, J),
    ("And with pictures stored at 48 px and half the learner's weight, both distilled",
     suites.FLEXI_HALF_WEIGHT, suites.FLEXI_DISTILLED),
    ("And with three quarters of a sub-batch trained cheaply, instead of half",
     suites.FLEXI_MOSTLY_LOW, suites.FLEXI_HALF_WEIGHT),
    ("What does cheap text cost on top of cheap images?", suites.FLEXI, "flexi_patches"),
    ("How far is selection from knowing the truth? Joint against the true-clean part", J,
     "uniform_clean"),
)  # fmt: skip


class Answer(NamedTuple):
    """Row `changed` minus row `plain`, means over the seeds of both, in shares of 0..1.

    retrieval, zero_shot: of the test part. validation: retrieval on the other.
    broken: of the rows picked after warm-up; None where a row's data is not the pool.
    """

    question: str
    changed: str
    plain: str
    retrieval: Mean
    validation: Mean
    zero_shot: Mean
    broken: Mean | None


def answers(rows: Mapping[str, RowResults], pool: Mapping) -> list[Answer]:
    """Those that can be given: both rows have results at a seed that they share."""
    found = []
    for question, changed, plain in QUESTIONS:
        if changed not in rows or plain not in rows:
            continue
        a, b = rows[changed], rows[plain]
        if not set(a.by_seed) & set(b.by_seed):
            continue
        scores = (
            paired(a.test(), b.test()),
            paired(a.validation(), b.validation()),
            paired(a.test("zero_shot"), b.test("zero_shot")),
        )
        labels = a.row.label, b.row.label
        found.append(Answer(question, *labels, *scores, _broken(a, b, pool)))
    return found


def _broken(a: RowResults, b: RowResults, pool: Mapping) -> Mean | None:
    shares = []
    for row in (a, b):
        by_seed = {}
        for seed, cell in row.by_seed.items():
            truth = truth_of(RowResults(row.row, {seed: cell}), pool)
            if truth is not None:
                by_seed[seed] = truth["broken"].mean
        shares.append(by_seed)
    return paired(*shares)
