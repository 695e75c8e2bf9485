"""The train step: against one written out here, and when it is refused."""

import agreement
import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

from jest_tf.data.augmentation import augmentation
from jest_tf.selection import Embeddings, select
from jest_tf.training import jest_model
from jest_tf.training.resolution import Resolution


def weights(model) -> list[np.ndarray]:
    return [v.numpy() for v in model.learner.trainable_variables]


def encode(model, batch) -> tuple[tf.Tensor, tf.Tensor]:
    images = tf.image.resize(batch["image"], [16, 16], antialias=True)
    return model.encode_image(images / 127.5 - 1.0), model.encode_text(batch["tokens"])


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


@pytest.fixture(scope="module")
def plain():
    """(model, host loop, result) of four steps of the plain trainer, one by one."""
    model, host_loop, schedule = tiny.trainer(observe=True)
    return model, host_loop, host_loop.run(schedule.plan(0), 4)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_step_equals_a_plain_step_on_the_selected_examples(loss):
    """Selection from the same scores, dense loss and clipped gradient, then Keras's own AdamW."""
    spec = tiny.spec(loss=loss)
    model, host_loop, schedule = tiny.trainer(policy=spec, clip_norm=0.5)
    plain = tiny.encoder(seed=0)
    batch = tiny.super_batch(0)
    views = [
        Embeddings(*encode(m, batch), m.scale, tf.convert_to_tensor(m.bias))
        for m in (plain, model.reference)
    ]
    picked = select(
        spec, *views, tf.constant(batch["valid"]), tf.constant([5, 0])
    ).positions.numpy()

    chosen = {k: v[picked] for k, v in batch.items()}
    with tf.GradientTape() as tape:
        expected = dense_loss(loss, *encode(plain, chosen), plain.scale, plain.bias)
    gradients = tape.gradient(expected, [v.value for v in plain.trainable_variables])
    norm = tf.linalg.global_norm([tf.convert_to_tensor(g) for g in gradients])
    assert norm > 0.5, "the case must clip"
    clipped = [tf.convert_to_tensor(g) * (0.5 / norm) for g in gradients]
    adamw = keras.optimizers.AdamW(1e-3, weight_decay=1e-4, beta_1=0.9, beta_2=0.95)
    adamw.exclude_from_weight_decay(
        var_list=[v for v in plain.trainable_variables if len(v.shape) < 2]
    )
    model.optimizer._learning_rate = 1e-3

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


def test_steps_in_one_program_equal_steps_one_by_one(plain):
    model, in_graph, schedule = tiny.trainer(steps_per_loop=4, observe=True)
    together = in_graph.run(schedule.plan(0), 4)
    other, one_by_one, singly = plain
    assert (together.picks == singly.picks).all()
    assert (together.observed.code == singly.observed.code).all()
    np.testing.assert_allclose(together.observed.losses, singly.observed.losses, rtol=1e-4)
    assert together.wait_seconds > 0 and singly.wait_seconds > 0
    agreement.assert_trained_alike(model, other, agreement.MANY_STEPS)
    assert "joint_score" in one_by_one.diagnose(singly.last)


@pytest.mark.parametrize(("loss", "n_replicas"), [("sigmoid", 1), ("softmax", 2)])
def test_a_step_tells_the_record_and_both_losses_of_each_candidate(loss, n_replicas):
    batch = tiny.super_batch(0)
    batch["valid"][::8] = False
    _, host_loop, schedule = tiny.trainer(
        n_replicas, policy=tiny.spec(loss=loss), batches=[batch], observe=True
    )
    result = host_loop.run(schedule.plan(0), 1)
    code, losses = result.observed.code[0], result.observed.losses[0]
    np.testing.assert_array_equal(code >> 1, np.where(batch["valid"], batch["record"], -1))
    assert set(batch["id"][code & 1 == 1]) == set(result.picks[0])
    for column, model in enumerate((tiny.encoder(0), tiny.encoder(1, embed_dim=20))):
        zimg, ztxt = encode(model, batch)
        bias = float(tf.convert_to_tensor(model.bias))
        z = float(model.scale) * np.sum(zimg * ztxt, axis=1) + bias
        expected = np.logaddexp(0, -z) if loss == "sigmoid" else -z
        expected[~batch["valid"]] = np.nan
        np.testing.assert_allclose(losses[:, column], expected, rtol=1e-4, atol=1e-4)
        for rows in np.split(
            np.arange(tiny.SUPER_BATCH), n_replicas
        ):  # a replica ranks among its own
            cosine = (zimg.numpy() @ ztxt.numpy().T)[np.ix_(rows, rows)]
            valid = batch["valid"][rows]
            own = np.diag(cosine)
            better = [(z > own[:, None] + 1e-5) & valid for z in (cosine, cosine.T)]
            rank = sum(b.sum(1) for b in better) / (2 * (valid.sum() - 1))
            # A near-tie with one other may fall either way.
            np.testing.assert_allclose(losses[rows, 2 + column][valid], rank[valid], atol=0.04)


def test_cached_embeddings_of_the_reference_give_the_same_picks(plain):
    live, _, expected = plain
    batch = tiny.super_batch(0)
    zimg, ztxt = encode(live.reference, batch)
    batch = batch | {"reference_zimg": zimg.numpy(), "reference_ztxt": ztxt.numpy()}
    logits = float(live.reference.scale), float(tf.convert_to_tensor(live.reference.bias))
    model, cached, schedule = tiny.trainer(batches=[batch], cached_reference=logits)
    model.reference = None
    found = cached.run(schedule.plan(0), 1)
    assert (found.picks[0] == expected.picks[0]).all()
    loss = expected.of_each["train/loss"][0]
    np.testing.assert_allclose(found.metrics["train/loss"], loss, rtol=1e-5)


def test_one_program_per_resolution_and_none_after_its_first_use():
    resolutions = [Resolution(16, 8), Resolution(8, 8)]
    model, host_loop, schedule = tiny.trainer(
        batches=[tiny.super_batch(i) for i in range(12)],
        schedule={"random": resolutions, "hold_steps": 2, "seed": 1},
    )
    traces = []
    traced, model.step = model.step, lambda *a, **k: traces.append(k["plan"]) or traced(*a, **k)
    said = []
    for step in range(0, 12, 2):
        host_loop.run(schedule.plan(step), 1, said.append)
        host_loop.run(schedule.plan(step), 1, said.append)
    used = {schedule.plan(step) for step in range(12)}
    assert len(used) == len(said) > 1
    assert len(traces) == len(set(traces)) == len(used)


def test_augmentation_changes_the_loss_but_not_the_first_picks_and_can_be_made_again(plain):
    """Made again on another number of replicas: draws are functions of seed, step and row."""
    runs = []
    for n_replicas in (1, 2):
        _, host_loop, schedule = tiny.trainer(n_replicas, augment=augmentation(("flip",)))
        runs.append(host_loop.run(schedule.plan(0), 2))
    one, two = runs
    *_, without = plain
    assert (without.picks[0] == one.picks[0]).all()
    assert without.of_each["train/loss"][0] != one.of_each["train/loss"][0]
    assert (one.picks == two.picks).all()
    np.testing.assert_allclose(one.of_each["train/loss"], two.of_each["train/loss"], rtol=1e-5)


def test_augmentation_draws_differ_by_row_draw_and_step():
    def draws(step, rank=0, size=1):
        seed = tf.constant([3, step], tf.int32)
        return jest_model.draws_of_rows(seed, 12 // size, rank).numpy()

    first, second = draws(0), draws(1)
    assert len(np.unique(np.concatenate([first, second]))) == first.size + second.size
    assert first.min() > 0 and first.max() < 1
    halves = np.concatenate([draws(0, rank, 2) for rank in range(2)])
    np.testing.assert_array_equal(first, halves)


def test_keras_fit_runs_the_same_step(plain):
    model, _, by_loop = plain
    other, _, _ = tiny.trainer()
    other.compile(optimizer=other.optimizer, jit_compile=False)
    # Tensors, no generator: deleting an iterator that waits for Python can deadlock.
    four = [tiny.super_batch(i) for i in range(4)]
    batches = tf.data.Dataset.from_tensor_slices(
        {k: np.stack([batch[k] for batch in four]) for k in four[0]}
    )
    history = other.fit(batches, epochs=1, verbose=0).history
    np.testing.assert_allclose(history["train/loss"][-1], by_loop.metrics["train/loss"], rtol=1e-5)
    agreement.assert_trained_alike(model, other, agreement.MANY_STEPS)
