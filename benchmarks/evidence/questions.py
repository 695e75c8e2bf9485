"""What the ablations ask: causes that may hold joint selection back, and what may help it.

Each is one comparison of two rows that differ in one thing, paired by seed.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.evidence import suites
from benchmarks.evidence.analysis import RowResults, paired, truth_of
from benchmarks.evidence.curves import Mean

J, K = suites.JOINT, suites.TOP_K
# (question, the row that has the change, the row without it)
QUESTIONS = (
    ("Is the learning rate of joint selection's own best trial better?", "own_rate", J),
    ("Is taking the best better than drawing?", "greedy", J),
    ("Is a tenth of the temperature better?", "cold", J),
    ("Does half the learner's weight help?", "weight50", J),
    ("The same without drawing", "weight50_greedy", "greedy"),
    ("The same on top of distillation", suites.HALF_WEIGHT, suites.DISTILLED),
    ("Do 240 steps, with the whole decay of the rate, do as well?", "remedies",
     suites.HALF_WEIGHT),
    ("Does twice the weight of the distillation help?", "distilled_twice",
     suites.HALF_WEIGHT),
    ("Is SigLIP's bias of -10 better than -log b?", "bias10", J),
    ("Are 64 chunks better than 16?", "chunks64", J),
    ("Are 4 chunks worse than 16?", "chunks4", J),
    ("Is joint better than independent selection, both sampled?", J,
     "independent_sampled"),
    ("Is joint better than independent top-k?", J, K),
    ("Is greedy joint better than independent top-k?", "greedy", K),
    ("Is joint better than independent top-k at b = 256?", "joint_b256", "top_k_b256"),
    ("Does b = 256 help, at as many trained examples?", "joint_b256", J),
    ("Does a stronger, larger reference help?", "larger_reference", J),
    ("Does augmenting the reference's training pictures help?", "augmented_reference", J),
    ("Is a reference trained on the noisy pool worse?", "dirty_reference", J),
    ("Does the learner pass its reference at equal steps?", suites.JOINT_LONG, suites.CURATED),
    ("Is a softer filter better? f = 0.5, equal steps", "f50", J),
    ("Does distilling the reference's softmax help?", suites.DISTILLED, J),
    ("Does distillation help uniform sampling too?", suites.UNIFORM_DISTILLED,
     suites.SAME_STEPS),
    ("What does selection add to distillation?", suites.DISTILLED, suites.UNIFORM_DISTILLED),
    ("Is joint better than independent top-k, both distilled?", suites.DISTILLED,
     "top_k_distilled"),
    ("Does the distilled learner pass its reference at equal steps?", suites.DISTILLED_LONG,
     suites.CURATED),
    ("Does selection help with the softmax loss too?", "joint_softmax", "uniform_softmax"),
    ("Do cached embeddings of the reference change anything?", "uncached", J),
    ("What do the cheap scores of Flexi-JEST cost?", suites.FLEXI, J),
    ("Do pictures stored at 48 px and half the learner's weight help?",
     suites.FLEXI_HALF_WEIGHT, suites.FLEXI_DISTILLED),
    ("Is three quarters of a sub-batch at low resolution better than half?",
     suites.FLEXI_MOSTLY_LOW, suites.FLEXI_HALF_WEIGHT),
    ("What does cheap text cost on top of cheap images?", suites.FLEXI, "flexi_patches"),
    ("Is selecting better than training on the truly clean pairs alone?", J,
     "uniform_clean"),
)  # fmt: skip
# Those on the page, as (with, without): what was asked first, and what helped or surprised.
SHOWN = (
    (J, K), ("greedy", K), (J, "independent_sampled"), ("joint_b256", "top_k_b256"),
    ("chunks64", J), ("weight50", J), (suites.DISTILLED, J),
    (suites.UNIFORM_DISTILLED, suites.SAME_STEPS), (suites.DISTILLED, suites.UNIFORM_DISTILLED),
    ("dirty_reference", J), (suites.FLEXI, J), (J, "uniform_clean"),
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


def answers(
    rows: Mapping[str, RowResults], pool: Mapping, only: Sequence[tuple[str, str]] = ()
) -> list[Answer]:
    """Those that can be given: both rows have results at a seed that they share.

    Args:
      only: the pairs (changed, plain) that are asked about; all by default.
    """
    found = []
    for question, changed, plain in QUESTIONS:
        if changed not in rows or plain not in rows or (only and (changed, plain) not in only):
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
