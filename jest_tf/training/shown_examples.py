"""Examples of one step to look at: chosen, rejected as noise, rejected as learned."""

import numpy as np
import tensorflow as tf

from jest_tf.data.manifest import Manifest
from jest_tf.data.records import look_up
from jest_tf.data.tokenizer import Tokenizer
from jest_tf.monitoring.samples import GROUPS, Samples, pick_samples
from jest_tf.selection import Embeddings
from jest_tf.training.jest_model import Scored, StepOutput

# Rows that the accuracy looks at: enough for two digits, and quick on any host.
ACCURACY_ROWS = 1024


def of_both_models(scored: Scored) -> dict[str, float]:
    """What the scores of a step, as one replica has them, tell of the two models themselves."""
    values = {}
    if scored.learner is not None:
        values["train/pool_accuracy"] = pool_accuracy(scored)
    if scored.reference is not None:
        values["train/reference_scale"] = float(scored.reference.scale)
        values["train/reference_bias"] = float(scored.reference.bias)
    return values


def pool_accuracy(scored: Scored) -> float:
    """Share of candidates whose own text is the learner's nearest, among the first valid ones."""
    rows = np.flatnonzero(scored.valid.numpy())[:ACCURACY_ROWS]
    zimg, ztxt = (z.numpy()[rows].astype(np.float32) for z in scored.learner[:2])
    return float(np.mean(np.argmax(zimg @ ztxt.T, axis=1) == np.arange(len(rows))))


# Examples are kept of so many steps at the full cadence; then of ever fewer, so that the log of a
# run of a million steps stays small.
KEPT_AT_FULL_CADENCE = 100


def shows_examples(step: int, every_steps: int) -> bool:
    """Whether the examples of a step are kept: n times the cadence keep O(log n) of them.

    All of the first KEPT_AT_FULL_CADENCE, then half as often each time that steps double.
    """
    n = step // every_steps
    stride = 1
    while n > KEPT_AT_FULL_CADENCE * stride:
        stride *= 2
    return step % (every_steps * stride) == 0


def shown_examples(
    last: StepOutput,
    batch: dict[str, tf.Tensor],
    score: np.ndarray,
    tokenizer: Tokenizer,
    manifest: Manifest,
    per_group: int,
) -> Samples:
    """The most telling rows of the super-batch that the first replica held.

    score: float32 [n], S_ii of its rows. Keys and captions come from the records of `manifest`;
    tokens are turned back into text where one cannot be read again. per_group: rows at most.
    """
    n = len(score)
    chosen = np.zeros([n], bool)
    positions = last.selection.positions.numpy()
    chosen[positions[positions < n]] = True
    losses = [_positive_loss(z, n) for z in (last.scored.learner, last.scored.reference)]
    groups = pick_samples(score, *losses, chosen, last.scored.valid.numpy(), per_group)
    rows = np.concatenate([groups[name] for name in GROUPS])
    shown = {name: batch[name].numpy()[rows] for name in ("id", "image", "tokens", "source")}
    captions, keys = tokenizer.to_text(shown["tokens"]), [""] * len(rows)
    drawn = batch["caption_index"].numpy()[rows]
    for row, record in enumerate(look_up(manifest, batch["record"].numpy()[rows])):
        if record.id == shown["id"][row] and drawn[row] < len(record.captions):
            captions[row] = record.captions[drawn[row]].decode("utf-8", "replace")
            keys[row] = record.key.decode("utf-8", "replace")
    return Samples(
        group=np.repeat(list(GROUPS), [len(groups[name]) for name in GROUPS]),
        id=shown["id"],
        image=shown["image"],
        caption=np.array(captions, np.str_),
        source=np.array([s.name for s in manifest.sources], np.str_)[shown["source"]],
        score=score[rows],
        learner_loss=losses[0][rows],
        reference_loss=losses[1][rows],
        key=np.array(keys, np.str_),
    )


def _positive_loss(z: Embeddings | None, n: int) -> np.ndarray:
    """softplus(-z_ii) of each row; NaN where the policy did not ask the model."""
    if z is None:
        return np.full([n], np.nan, np.float32)
    cosine = np.sum(z.zimg.numpy() * z.ztxt.numpy(), axis=1)
    return np.logaddexp(0.0, -(z.scale.numpy() * cosine + z.bias.numpy())).astype(np.float32)
