"""How far `jest audit` depends on its reference: one of each seed, in one command.

    python -m benchmarks.audit_seeds --workdir=runs/audit_seeds [--sets=photographs,emoji]

Each reference is trained on the curated pairs and audits the noisy pool, and `audit_noise` compares
its verdicts with the known labels. The photographs' is the shipped base, tuned; that of the emoji
learns from nothing. What is done is kept: the same command goes on. Writes docs/audit.md.
"""

import argparse
import os
from collections.abc import Sequence

import numpy as np

from benchmarks import audit_noise
from benchmarks.figure_page import FigurePage
from benchmarks.figures import DOCS, MEASURED, emit, made
from examples.emoji.train_base import run_command
from jest_tf.monitoring.labels import Labels, read_labels

GOAL = ">= 1.25"
SAMPLE = 3_000  # pairs that cleanlab judges, at most: it takes as long as all else
EMOJI, EMOJI_STEPS = "tfds:emoji_captions/pool:train[:20%]", 400  # 12,000 pairs
CONTEXTS = {
    "photographs": "examples/photos/tune.py:reference,steps=40, from the shipped base",
    "emoji": f"configs/emoji.py:reference,steps={EMOJI_STEPS}, from nothing",
}
METHODS = ("audit", "CLIPScore", "cleanlab")
MEASURES = ("precision", "recall", "f1")


class SeedsPage(FigurePage):
    """The kept lines as a row a method, and the ratio of each seed."""

    def table(self) -> str:
        """Markdown."""
        lines = self.load()
        rows = ["| pairs | | precision | recall | F1 |", "|---|---|---|---|---|"]
        for line in (line for line in lines if line["figure"] == "audit_scores"):
            told = [f"{line[m]['mean']:.3f} ± {line[m]['sd']:.3f}" for m in MEASURES]
            rows.append(f"| {line['set']} | {line['method']} | {' | '.join(told)} |")
        rows.append("")
        for line in (line for line in lines if line["goal"]):
            each = ", ".join(f"{ratio:.2f}" for ratio in line["per_seed"])
            rows.append(
                f"F1 of the audit over that of {line['over']}, {line['set']}: {line['value']:.2f} "
                f"± {line['sd']:.2f} (goal: 1.25); of each seed: {each}."
            )
        return "\n".join([*rows, "", made(lines, self.lines)]) + "\n"


PAGE = SeedsPage(MEASURED / "audit.jsonl", DOCS / "audit.md", ("set", "method", "over"))


def photographs(root: str, data_dir: str, seed: int) -> tuple[list[str], list[str]]:
    """Arguments of the training of a reference, and of the audit; prepares what they name."""
    for part in ("pool", "curated", "test"):
        if not os.path.exists(f"{root}/photos/{part}/manifest.json"):
            source = ("parquet", f"data/photos/{part}.parquet")
            run_command("jest_tf.prepare", *source, f"--out={root}/photos/{part}")
    if not os.path.exists(f"{root}/base/model.json"):
        run_command("jest_tf.import_weights", "--from=data/emoji/base", f"--out={root}/base")
    config = f"examples/photos/tune.py:reference,steps=40,seed={seed},data={root}/photos"
    training = [f"--config={config}", f"--config.model.init={root}/base"]
    training += [f"--config.evals.{kind}.every_steps=0" for kind in ("retrieval", "zero_shot")]
    return training, [f"--data={root}/photos/pool"]


def of_emoji(root: str, data_dir: str, seed: int) -> tuple[list[str], list[str]]:
    """As `photographs`."""
    config = f"configs/emoji.py:reference,steps={EMOJI_STEPS},seed={seed}"
    training = [f"--config={config}", f"--config.data.data_dir={data_dir}"]
    return training, [f"--data={EMOJI}", "--tfds_module=examples.emoji.builder"]


SETS = {"photographs": photographs, "emoji": of_emoji}


def audited(name: str, root: str, data_dir: str, n_seeds: int) -> list[str]:
    """The tables of all seeds; trains and audits what is missing."""
    tables = [f"{root}/{name}-{seed}.parquet" for seed in range(n_seeds)]
    missing = [seed for seed in range(n_seeds) if not os.path.exists(tables[seed])]
    arguments = {seed: SETS[name](root, data_dir, seed) for seed in missing}
    for seed, (training, _) in arguments.items():
        run_command("jest_tf.train", f"--workdir={root}/{name}-{seed}", *training)
    for seed, (_, data) in arguments.items():
        of = [f"--reference={root}/{name}-{seed}", f"--data_dir={data_dir}"]
        run_command("jest_tf.audit", *data, *of, f"--out={tables[seed]}")
    return tables


def labels_of(name: str, root: str) -> Labels:
    """The known noise of a set."""
    if name == "emoji":
        from examples.emoji import builder as emoji

        return Labels(emoji.noise_by_id(), emoji.NOISY)
    return read_labels([f"{root}/photos/pool/noise.jsonl"])


def lines_of(name: str, runs: Sequence[Sequence[dict]], context: str) -> list[dict]:
    """The figures of a set. runs: for each seed, the rows of `audit_noise.judged`."""
    by_method = {
        method: {m: [row[m] for run in runs for row in run if row["method"] == method]
                 for m in MEASURES}
        for method in METHODS
    }  # fmt: skip
    common = {"set": name, "repeats": len(runs), "context": context}
    lines = []
    for method, found in by_method.items():
        told = {m: _spread(values) | {"per_seed": values} for m, values in found.items()}
        lines.append(emit("audit_scores", told["f1"]["mean"], "", "F1", method=method,
                          **told, **common))  # fmt: skip
    own = np.array(by_method["audit"]["f1"])
    for other in METHODS[1:]:
        theirs = np.array(by_method[other]["f1"])
        told = _spread(own / theirs)
        lines.append(emit("audit_f1_ratio", told["mean"], GOAL if other == "CLIPScore" else "", "x",
                          over=other, numerator=own.mean(), denominator=theirs.mean(),
                          sd=told["sd"], per_seed=list(own / theirs), **common))  # fmt: skip
    return lines


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", default="runs/audit_seeds", help="folder of models and audits")
    parser.add_argument("--data_dir", default="data/prepared", help="where TFDS keeps its sets")
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated")
    parser.add_argument("--seeds", type=int, default=5, help="references of each set")
    args = parser.parse_args()
    root = os.path.abspath(args.workdir)
    os.makedirs(root, exist_ok=True)
    for name in args.sets.split(","):
        runs, labels = [], None
        data = (EMOJI, args.data_dir) if name == "emoji" else (f"{root}/photos/pool", None)
        for seed, table in enumerate(audited(name, root, args.data_dir, args.seeds)):
            labels = labels or labels_of(name, root)
            (rows,) = audit_noise.judged(table, labels)
            (sampled,) = audit_noise.judged(table, labels, data, sample=SAMPLE)
            runs.append(rows + [row for row in sampled if row["method"].startswith("cleanlab")])
            told = {row["method"]: f"{row['f1']:.3f}" for row in runs[-1]}
            print(f"{name}, seed {seed}: F1 {told}", flush=True)
        PAGE.keep(lines_of(name, runs, CONTEXTS[name]))


if __name__ == "__main__":
    main()
