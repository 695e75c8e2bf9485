"""JEST on the shipped emoji pairs: 60,000 noisy pairs, 40% of them noisy, on a laptop.

    python -m jest_tf.train --config=configs/emoji.py:reference --workdir=runs/reference
    python -m jest_tf.train --config=configs/emoji.py --workdir=runs/joint \
        --config.reference.workdir=runs/reference
    python -m jest_tf.train --config=configs/emoji.py:policy=uniform --workdir=runs/uniform

Arguments: `reference` (train on the curated set), `policy=`, `criterion=`, `quick` (the length of
the quickstart), `steps=`, `seed=`, `validate_every=` (steps between evaluations on the validation
part; the test part is evaluated once, at the end). Everything else by `--config.x.y=…`.
"""

from ml_collections import ConfigDict

from jest_tf.config import base_config, evaluation, parse_arg

SUB_BATCH = 128  # what 2 CPU cores train on in about 0.2 s [paper: 32,768]
SUPER_BATCH = 640  # filter ratio 0.8, the paper's default


def get_config(arg: str = "") -> ConfigDict:
    a = parse_arg(
        arg,
        reference=False,
        policy="joint",
        criterion="learnability",
        quick=False,
        steps=0,
        seed=0,
        validate_every=0,
    )
    c = base_config()
    c.seed = a.seed
    c.name = "reference" if a.reference else a.policy
    c.data.tfds_module = "examples.emoji.builder"
    c.data.train = f"tfds:emoji_captions/{'curated' if a.reference else 'pool'}:train"
    c.data.vocab_from = "tfds:emoji_captions/curated:train"  # clean text, the same for every run
    c.data.vocab_size = 4096  # the curated captions have about 7,000 different words
    c.model.init_bias = -4.85  # -log(128): an easy negative then weighs about 1/b at the start
    c.selection.criterion = a.criterion
    c.selection.policy = "uniform" if a.reference else a.policy
    c.selection.sub_batch = SUB_BATCH
    # Uniform trains on all that it loads; it never loads B to train on b.
    c.selection.super_batch = SUB_BATCH if c.selection.policy == "uniform" else SUPER_BATCH
    if a.reference:
        c.total_steps = 560 if a.quick else 2400  # more overfits 5,546 pairs
    else:
        c.total_steps = 200 if a.quick else 1500
    c.total_steps = a.steps or c.total_steps
    c.optimizer.warmup_steps = min(60, c.total_steps // 4)
    if a.validate_every:
        for kind in ("retrieval", "zero_shot"):
            data = f"tfds:emoji_captions/eval_{kind}:validation"
            c.evals[f"{kind}_validation"] = evaluation(kind, data, a.validate_every)
    c.evals.retrieval = evaluation("retrieval", "tfds:emoji_captions/eval_retrieval:test")
    c.evals.zero_shot = evaluation("zero_shot", "tfds:emoji_captions/eval_zero_shot:test")
    return c
