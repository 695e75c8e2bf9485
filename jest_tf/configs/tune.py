"""Tunes a trained model on your own noisy pairs (docs/tune.md).

    python -m jest_tf.train --config=configs/tune.py --workdir=runs/tuned \
        --config.model.init=runs/siglip --config.data.train=data/mine

`model.init` is a workdir: of a run, or of `python -m jest_tf.import_weights`. Sizes, tokenizer and
pixel rule are its own. The reference is the same model unless `reference.workdir` names another.

Arguments: `policy=` (`uniform` is the baseline), `steps=`, `seed=`, `sub_batch=`, `eval=` (share of
your pairs that is held out and evaluated), `image=` and `text=` (full, frozen or last:K), `lora=`
(rank), `cache=` (a folder: freezes the image tower and embeds each picture once), `scored=` (a
folder that `jest cache_reference` wrote: the recipe of docs/results.md, which selects by it alone).
"""

from ml_collections import ConfigDict

from jest_tf.config import HELD_OUT, base_config, evaluation, parse_arg, set_batches
from jest_tf.tuning import INIT


def get_config(arg: str = "") -> ConfigDict:
    a = parse_arg(
        arg, policy="joint", steps=2_000, seed=0, sub_batch=256, eval=0.05,
        image="full", text="full", lora=0, cache="", scored="",
    )  # fmt: skip
    c = base_config()
    c.name, c.seed, c.total_steps = f"tune_{a.policy}", a.seed, a.steps
    c.same_caption = "ignore"  # shops, albums and videos repeat their captions
    c.data.image_size = c.model.image_size = c.model.patch_size = 0  # those of model.init
    c.data.eval_share = a.eval
    c.model.image.train = "frozen" if a.cache else a.image
    c.model.image.cache = c.reference.cache = a.cache
    c.model.text.train = a.text
    c.model.lora.rank = a.lora
    c.reference.workdir = INIT
    c.optimizer.learning_rate = 1e-5
    c.optimizer.weight_decay = 0.0
    c.optimizer.warmup_steps = min(100, a.steps // 10)
    set_batches(c, a.policy, a.sub_batch)
    # The learner starts as its reference, where learnability is 0. At half its weight, the scores
    # prefer what the reference finds easy, and then what the learner has not learned.
    c.selection.learner_weight = 0.5
    if a.scored:
        c.reference.cache, c.data.prefilter = a.scored, 0.5
        s = c.selection
        s.greedy, s.criterion, s.learner_weight = True, "easy_reference", 1.0
    c.log.min_score_share = 0.5  # stops, saved, when a score has halved
    if a.eval:
        c.evals.held_out = evaluation("retrieval", HELD_OUT, every_steps=max(1, a.steps // 10))
    return c
