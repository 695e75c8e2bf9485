"""The train step: against one written out here, and when it is refused."""

import agreement
import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

from jest_tf.selection import Embeddings, select
from jest_tf.training.host_loop import why_refused


def weights(model) -> list[np.ndarray]:
    return [v.numpy() for v in model.learner.trainable_variables]


def dense_loss(kind, zimg, ztxt, scale, bias):
    logits = scale * zimg @ tf.transpose(ztxt) + bias
    n = logits.shape[0]
    if kind == "sigmoid":
        signs = 2.0 * tf.eye(n) - 1.0
        return -tf.reduce_sum(tf.math.log_sigmoid(signs * logits)) / n
    labels = tf.range(n)
    both = [tf.nn.sparse_softmax_cross_entropy_with_logits(labels, z) for z in
            (logits, tf.transpose(logits))]  # fmt: skip
    return tf.reduce_mean(sum(both)) / 2


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_step_equals_a_plain_step_on_the_selected_examples(loss):
    """Selection from the same scores, dense loss and clipped gradient, then Keras's own AdamW."""
    spec = tiny.spec(loss=loss)
    model, host_loop, schedule = tiny.trainer(
        policy=spec, clip_norm=0.5, optimizer={"warmup_steps": 0, "learning_rate": 1e-3}
    )
    plain = tiny.encoder(seed=0)
    batch = tiny.super_batch(0)
    views = [
        Embeddings(*tiny.embed(m, batch), m.scale, tf.convert_to_tensor(m.bias))
        for m in (plain, model.reference)
    ]
    picked = select(
        spec, *views, tf.constant(batch["valid"]), tf.constant([5, 0])
    ).positions.numpy()

    chosen = {k: v[picked] for k, v in batch.items()}
    with tf.GradientTape() as tape:
        expected = dense_loss(loss, *tiny.embed(plain, chosen), plain.scale, plain.bias)
    gradients = tape.gradient(expected, [v.value for v in plain.trainable_variables])
    norm = tf.linalg.global_norm([tf.convert_to_tensor(g) for g in gradients])
    assert norm > 0.5, "the case must clip"
    clipped = [tf.convert_to_tensor(g) * (0.5 / norm) for g in gradients]
    adamw = keras.optimizers.AdamW(1e-3, weight_decay=1e-4, beta_1=0.9, beta_2=0.95)
    adamw.exclude_from_weight_decay(
        var_list=[v for v in plain.trainable_variables if len(v.shape) < 2]
    )
    result = host_loop.run(schedule.plan(0), 1)
    assert result.picks[0].tolist() == batch["id"][picked].tolist()
    np.testing.assert_allclose(result.metrics["train/loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(result.metrics["train/gradient_norm"], norm, rtol=1e-4)
    found = [moment / 0.1 for moment in agreement.first_moments(model)]
    agreement.assert_arrays_alike(found, clipped, agreement.ONE_STEP)
    adamw.apply([tf.constant(g) for g in found], plain.trainable_variables)
    for ours, theirs in zip(weights(model), plain.trainable_variables, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6, atol=1e-8)


def test_micro_batches_and_recompute_change_memory_alone():
    """3 divides neither the 32 rows scored nor the 4 of a part trained."""
    options = {"schedule": tiny.FLEXI, "sizes": tiny.TWO_BLOCKS}
    model, at_once, schedule = tiny.trainer(**options)
    expected = at_once.run(schedule.plan(0), 3)
    small, in_parts, _ = tiny.trainer(**options, micro_batch=3, encoder={"recompute": True})
    found = in_parts.run(schedule.plan(0), 3)
    assert (found.picks == expected.picks).all()
    for metric, rtol in (("train/loss", 1e-5), ("train/gradient_norm", 1e-4)):
        np.testing.assert_allclose(found.of_each[metric], expected.of_each[metric], rtol=rtol)
    agreement.assert_trained_alike(small, model, agreement.MANY_STEPS)


def test_a_bfloat16_step_is_near_the_float32_one():
    """Also in micro-batches with recompute; weights and their moments stay float32."""
    uniform = tiny.spec(policy="uniform", super_batch=tiny.SUB_BATCH)
    batch = {k: v[: tiny.SUB_BATCH] for k, v in tiny.super_batch(0).items()}
    _, full, schedule = tiny.trainer(policy=uniform, batches=[batch])
    mixed = {"dtype": "mixed_bfloat16", "recompute": True}
    model, half, _ = tiny.trainer(policy=uniform, batches=[batch], encoder=mixed, micro_batch=5)
    expected, found = (loop.run(schedule.plan(0), 1).metrics for loop in (full, half))
    np.testing.assert_allclose(found["train/loss"], expected["train/loss"], rtol=0.02)
    np.testing.assert_allclose(
        found["train/gradient_norm"], expected["train/gradient_norm"], rtol=0.1
    )
    assert found["train/loss"] != expected["train/loss"]
    assert {v.dtype for v in model.learner.trainable_variables} == {"float32"}


def test_a_refused_step_changes_nothing_but_the_step_count():
    """Too few valid rows, told with their count; then a loss that is not finite."""
    batches = [tiny.super_batch(step) for step in range(3)]
    batches[1]["valid"][tiny.SUB_BATCH - 1 :] = False
    model, host_loop, schedule = tiny.trainer(
        2, policy=tiny.spec(policy="uniform"), batches=batches
    )
    host_loop.run(schedule.plan(0), 1)

    def refused():
        before = weights(model), [v.numpy() for v in model.optimizer.variables]
        result = host_loop.run(schedule.plan(0), 1)
        assert result.of_each["accepted"].tolist() == [0.0]
        for old, new in zip(before[0], weights(model), strict=True):
            np.testing.assert_array_equal(old, new)
        for old, variable in zip(before[1], model.optimizer.variables, strict=True):
            if variable is model.optimizer.iterations:
                assert variable.numpy() == old + 1
            else:
                np.testing.assert_array_equal(old, variable.numpy())
        return result

    assert refused().of_each["selection/n_candidates"].tolist() == [tiny.SUB_BATCH - 1]
    model.learner.log_scale.assign(200.0)  # exp overflows
    assert not np.isfinite(refused().metrics["train/loss"])


def test_a_diverged_model_is_not_told_as_bad_data():
    model, host_loop, schedule = tiny.trainer(policy=tiny.spec(policy="joint"))
    for variable in model.learner.trainable_variables:
        variable.assign(tf.fill(variable.shape, np.inf))
    result = host_loop.run(schedule.plan(0), 1)
    of_step = {name: values[0] for name, values in result.of_each.items()}
    assert not of_step["accepted"] and of_step["input/n_valid"] == tiny.SUPER_BATCH
    assert "the model has diverged" in why_refused(of_step, tiny.SUB_BATCH)
    of_step["input/n_valid"] = tiny.SUB_BATCH - 1
    assert "usable rows" in why_refused(of_step, tiny.SUB_BATCH), "records that could not be read"


@pytest.mark.parametrize(
    ("policy", "criterion"),
    [
        ("uniform", "learnability"),
        ("independent_top_k", "learnability"),
        ("independent_sampled", "hard_learner"),
        ("joint", "easy_reference"),
    ],
)
def test_every_policy_and_criterion_trains_on_valid_rows_only(policy, criterion):
    batch = tiny.super_batch(0)
    batch["valid"][::2] = False
    spec = tiny.spec(policy=policy, criterion=criterion)
    _, host_loop, schedule = tiny.trainer(policy=spec, batches=[batch])
    result = host_loop.run(schedule.plan(0), 1)
    allowed = set(batch["id"][1::2].tolist())
    assert set(result.picks[0].tolist()) <= allowed
    assert len(set(result.picks[0].tolist())) == tiny.SUB_BATCH
    assert result.of_each["accepted"].tolist() == [1.0]
