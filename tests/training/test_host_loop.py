"""Steps as the host runs them: one by one or in one program, watched, cached, augmented, by fit."""

import agreement
import numpy as np
import pytest
import tensorflow as tf
import tiny

from jest_tf.data.augmentation import augmentation
from jest_tf.training import jest_model
from jest_tf.training.resolution import Resolution


@pytest.fixture(scope="module")
def plain():
    """(model, host loop, result) of four steps of the plain trainer, one by one."""
    model, host_loop, schedule = tiny.trainer(observe=True)
    return model, host_loop, host_loop.run(schedule.plan(0), 4)


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
        zimg, ztxt = tiny.embed(model, batch)
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
    zimg, ztxt = tiny.embed(live.reference, batch)
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
