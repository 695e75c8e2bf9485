"""The section of the page that asks why goals were missed, and what helped."""

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.evidence import picks, suites
from benchmarks.evidence.analysis import RowResults, truth_of
from benchmarks.evidence.markdown import points, table
from benchmarks.evidence.questions import answers
from jest_tf.training.cost import resize_flops

Rows = Mapping[str, RowResults]


def causes(rows: Rows, pool: Mapping[str, Any]) -> str:
    """The section; empty while no two rows can be compared."""
    body = []
    for a in answers(rows, pool):
        what = f"{a.changed} − {a.plain}"
        broken = "-" if a.broken is None else points(a.broken)
        scores = (points(score) for score in (a.retrieval, a.validation, a.zero_shot))
        body.append([a.question, what, *scores, broken, str(a.retrieval.n)])
    if not body:
        return ""
    heads = [
        "question", "difference", "retrieval", "on validation", "zero-shot", "broken picked",
        "seeds",
    ]  # fmt: skip
    return (
        "## Causes and remedies\n\n"
        "Rows that differ in one thing, in points, paired by seed: final scores on the test part, "
        "beside them retrieval on the validation part, whose pictures are other ones, and broken "
        "rows among the picked after warm-up. The error is of seeds: a small difference that the "
        "two parts do not share may be one of their pictures.\n\n" + table(heads, body) + "\n\n"
        "How to read the goals that are missed, with the pictures below:\n\n"
        "- *Broken rows.* Every policy starts near what the reference alone would pick (the row "
        "*easy reference* of the truth check): it knows the curated pairs and guesses the rest. "
        "From there the share rises as the learner learns. What is learned scores about 0, and so "
        "does what neither model can match; this pool is read several times over, so the first "
        "kind soon is common. A learner's weight below 1 ranks the second kind lower. "
        + _unseen_note(rows, pool)
        + "\n"
        "- *Joint against independent.* "
        + _pair_note(rows)
        + "Where the best one by one reach more than the draw, its noise takes more joint score "
        "away than the pair terms, small beside an example's own at this b, can add; where picks "
        "without noise reach more, the pair terms add. The rows that change the draw, the bias, "
        "the chunks and b tell what of that becomes retrieval.\n"
        "- *Over the reference.* A selecting run trains on a third of the examples that its "
        "reference trained on, and on other vendors' noisy pairs; the row that trains as long as "
        "the reference shows how much of the gap is that.\n"
        "- *FLOPs.* A sigmoid JEST step scores five pairs for each that it trains on. "
        + _resize_note(rows)
        + _remaining_note(rows)
    )


def _unseen_note(rows: Rows, pool: Mapping[str, Any]) -> str:
    """How well the reference judges pairs that it was not trained on."""
    if suites.JOINT not in rows:
        return ""
    found = truth_of(rows[suites.JOINT], pool)
    seen, of_rest = found["pair_seen"].mean, found["broken"].mean / (1 - found["pair_seen"].mean)
    chance = picks.broken(pool) / (1 - pool["pair_seen"])
    said = (
        f"Of joint selection's picks {seen:.0%} stand in the curated set, as image and caption; of "
        f"the others {of_rest:.0%} are broken, where blind picks would have {chance:.0%}: of what "
        "it was not trained on, this reference knows little."
    )
    if "truncated" in found:
        said += (
            f" {found['truncated'].mean / found['broken'].mean:.0%} of the broken picks are "
            "truncated captions, which hardly anything rejects: a word or the first letters of "
            "the right caption, true of the picture, and keywords of one word stand in the curated "
            "set too."
        )
    return said


def _pair_note(rows: Rows) -> str:
    """What joint selection gains in its own measure over taking the best one by one."""
    said = []
    for name, how in ((suites.JOINT, "drawn as in the paper"), ("greedy", "without noise")):
        if name not in rows:
            continue
        ours, best, blind, same = (
            _logged(rows[name], metric)
            for metric in (
                "joint_score",
                "joint_score_independent_top_k",
                "joint_score_uniform",
                "overlap_independent_top_k",
            )
        )
        said.append(
            f"{how}, its picks reach {ours:.2f}, the best one by one of the same scores {best:.2f} "
            f"and blind ones {blind:.2f}, and {same:.0%} of the picks are the same"
        )
    if not said:
        return ""
    return f"In its own measure, the joint score per example, mean over a run: {'; '.join(said)}. "


def _logged(row: RowResults, metric: str) -> float:
    """Mean over steps and seeds of what a run logged of its selection."""
    series = [cell["selection"][f"selection/{metric}"] for cell in row.cells]
    return statistics.fmean(value for one in series for value in one)


def _resize_note(rows: Rows) -> str:
    """What resizing on the device takes of Flexi-JEST's scores: a small model makes it large."""
    if suites.FLEXI not in rows:
        return ""
    cell = rows[suites.FLEXI].one
    c = cell["config"]
    size = int(c["resolution"]["score"]["resolution"].partition("/")[0])
    resize = resize_flops(c["data"]["image_size"], size) * c["selection"]["super_batch"]
    share = resize * c["total_steps"] / cell["cost"]["flops/score_learner"]
    return (
        f"Of Flexi-JEST's scores, {share:.0%} of the FLOPs resize {c['data']['image_size']} px "
        f"pictures to {size} px on the device, a cost that does not shrink with the model."
    )


def _remaining_note(rows: Rows) -> str:
    """What a Flexi-JEST step costs once nothing is resized."""
    if suites.FLEXI_HALF_WEIGHT not in rows:
        return ""
    cell = rows[suites.FLEXI_HALF_WEIGHT].one
    c, cost = cell["config"], cell["cost"]
    full = cost[f"flops/train@{c['data']['image_size']}/{c['model']['patch_size']}"]
    return (
        f" Stored at that size, {cost['flops/score_learner'] / cost['flops']:.0%} of a step's "
        f"FLOPs are scores and {full / cost['flops']:.0%} train a half of b at full resolution; "
        "the row that trains a quarter so shows what less of it saves and costs."
    )
