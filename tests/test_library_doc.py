"""docs/library.md is run as it stands, and what it makes is checked."""

import ast
import pathlib
import re
import warnings

import agreement
import keras
import numpy as np
import pytest

from jest_tf.errors import UserError

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "library.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def page():
    """The names that the page's code has defined, and what it warned of."""
    keras.utils.set_random_seed(3)
    names = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        for block in BLOCKS:
            exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102 - our own page
    return names | {"warned": [str(w.message) for w in caught]}


def test_the_code_that_a_user_writes_has_30_lines():
    lines = [line for line in BLOCKS[1].splitlines() if line.strip()]
    assert len(lines) <= 30 and ast.parse(BLOCKS[1])


def test_every_loop_has_stepped_and_trained_the_learner_alone(page):
    assert page["strategy"].num_replicas_in_sync > 1
    for model, n_steps in ((page["one_device"], 8), (page["mirrored"], 8)):
        assert model.optimizer.iterations.numpy() == n_steps
        assert model.trainable_variables == model.learner.trainable_variables
    assert float(page["strategy"].experimental_local_results(page["metrics"]["accepted"])[0]) == 1


def test_fit_on_several_devices_equals_fit_on_one(page):
    with page["strategy"].scope():
        mirrored = page["build"]()
    single = page["build"]()
    for part in ("learner", "reference"):
        getattr(single, part).set_weights(getattr(mirrored, part).get_weights())
    losses = [
        model.fit(page["super_batches"], verbose=0).history["train/loss"][-1]
        for model in (single, mirrored)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    agreement.assert_trained_alike(mirrored, single, agreement.MANY_STEPS)


def test_another_optimizer_is_refused(page):
    with pytest.raises(UserError, match="GuardedAdamW"):
        page["one_device"].compile(optimizer=keras.optimizers.SGD(0.1))


def test_the_bare_selection_gives_distinct_rows(page):
    for picked in (page["picked"].numpy(), page["by_loss"].positions.numpy()):
        assert len(set(picked.tolist())) == 8 and set(picked.tolist()) <= set(range(32))


def test_joint_on_losses_says_that_it_is_independent(page):
    assert any("joint selection is independent selection" in text for text in page["warned"])
