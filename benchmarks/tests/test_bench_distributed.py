"""The counted bytes of a step against each exchange of it written out."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.distributed import REPLICAS, ReplicatedStep, SentBytes, stated_payload
from jest_tf.models.dual_encoder import DualEncoderConfig
from jest_tf.selection import LOCAL, SelectionSpec

TOWER = {"width": 16, "depth": 1, "heads": 2, "mlp_dim": 32}
MODEL = DualEncoderConfig.from_variant(
    "mu", image_size=16, patch_size=8, n_tokens=6, vocab_size=50, embed_dim=12,
    image=TOWER, text=TOWER,
)  # fmt: skip
SPEC = SelectionSpec(32, 8, n_chunks=2)


def test_bytes_are_counted_as_they_are_sent():
    sent = SentBytes(LOCAL)
    sent.all_gather(tf.zeros([3, 5], tf.uint8))
    sent.all_reduce_sum([tf.zeros([2, 4]), tf.zeros([], tf.int64)])
    assert sent.total == 15 + 32 + 8


@pytest.mark.usefixtures("logical_devices")
def test_a_step_sends_the_stated_payload_and_nothing_large_beside_it():
    step = ReplicatedStep(MODEL, SPEC, REPLICAS)
    sent, positions = step.bytes_and_positions()
    payload = stated_payload(step.model, SPEC, positions)
    assert payload["gradients"] == sum(
        v.numpy().nbytes for v in step.model.learner.trainable_variables
    )
    assert payload["pairs"] == 2 * 4 * 8  # chunks, pairs of a chunk, float32 and int32
    of_replica = np.bincount(positions // 16, minlength=REPLICAS)
    example = 16 * 16 * 3 + 6 * 4
    assert payload["picked_examples"] == np.maximum(of_replica - 4, 0).sum() * example
    rest = sent - sum(payload.values())
    gathered = 2 * (8 // REPLICAS) * 12 * 4  # embeddings, for the loss
    ids, loss = 8 * 8, 4
    # Rounds of the exchange in which nothing travels send one row.
    idle_rows = (rest - gathered - ids - loss) / example
    assert idle_rows in range(5), rest
