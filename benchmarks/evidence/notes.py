"""Why goals were missed, in sentences with measured numbers."""

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.evidence import picks, suites
from benchmarks.evidence.analysis import RowResults, truth_of
from jest_tf.training.cost import resize_flops

Rows = Mapping[str, RowResults]


def notes(rows: Rows, pool: Mapping[str, Any]) -> list[str]:
    """One Markdown paragraph for each kind of goal; joint selection has run."""
    flops = "**FLOPs.** A JEST step scores five pairs for each pair that it trains on. "
    return [
        "**Noisy pairs.** Early in training every policy selects what the reference alone would "
        "select. The share of noise rises as the learner learns: learned pairs then score about 0, "
        "and so do pairs that neither model can match. A learner's weight below 1 ranks the second "
        "kind lower. " + _unseen_note(rows, pool),
        "**Joint against independent.** Mean joint score per example over a run: "
        + _pair_note(rows)
        + " Where independent top-k has the higher joint score, the noise of the draw costs more "
        "than the pair terms add at this b.",
        "**Over the reference.** A selecting run trains on a third of the examples that its "
        "reference was trained on, and on noisy pairs of other vendors. The run that is as long as "
        "the reference's shows how much of the gap that explains.",
        flops + _resize_note(rows) + _remaining_note(rows),
    ]


def _unseen_note(rows: Rows, pool: Mapping[str, Any]) -> str:
    """How well the reference judges pairs that it was not trained on."""
    if suites.JOINT not in rows:
        return ""
    found = truth_of(rows[suites.JOINT], pool)
    seen, of_rest = found["pair_seen"].mean, found["broken"].mean / (1 - found["pair_seen"].mean)
    chance = picks.broken(pool) / (1 - pool["pair_seen"])
    said = (
        f"{seen:.0%} of the pairs that joint selection takes occur in the curated set. Of the "
        f"others {of_rest:.0%} are noisy; uniform sampling would give {chance:.0%}. So the "
        "reference knows little about pairs that it was not trained on."
    )
    if "truncated" in found:
        said += (
            f" {found['truncated'].mean / found['broken'].mean:.0%} of the selected noisy pairs "
            "have a truncated caption: a word or the first letters of the right one, which is true "
            "of the picture."
        )
    return said


def _pair_note(rows: Rows) -> str:
    """What joint selection gains in its own measure over taking the best one by one."""
    said = []
    for name, how in ((suites.JOINT, "sampled joint selection"), ("greedy", "greedy")):
        if name not in rows:
            continue
        ours, best, uniform, same = (
            _logged(rows[name], metric)
            for metric in (
                "joint_score",
                "joint_score_independent_top_k",
                "joint_score_uniform",
                "overlap_independent_top_k",
            )
        )
        said.append(
            f"{how} {ours:.2f}, independent top-k on the same scores {best:.2f}, uniform "
            f"{uniform:.2f}, {same:.0%} of the selected examples in common with top-k"
        )
    return "; ".join(said) + "."


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
        f"{share:.0%} of the FLOPs of Flexi-JEST's scores resize {c['data']['image_size']} px "
        f"pictures to {size} px on the device; a smaller model does not make that cheaper."
    )


def _remaining_note(rows: Rows) -> str:
    """What a Flexi-JEST step costs once nothing is resized."""
    if suites.FLEXI_HALF_WEIGHT not in rows:
        return ""
    cell = rows[suites.FLEXI_HALF_WEIGHT].one
    c, cost = cell["config"], cell["cost"]
    full = cost[f"flops/train@{c['data']['image_size']}/{c['model']['patch_size']}"]
    return (
        f" With pictures stored at that size, {cost['flops/score_learner'] / cost['flops']:.0%} of "
        f"a step's FLOPs are scores and {full / cost['flops']:.0%} train half of b at full "
        "resolution."
    )
