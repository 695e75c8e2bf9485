"""A gradient that is not finite under a loss that is: the step is refused, its values told."""

import numpy as np
import tensorflow as tf
import tiny


def test_a_gradient_that_is_not_finite_refuses_the_step():
    bad = tf.Variable(np.nan, dtype=tf.float32)

    @tf.custom_gradient
    def spoilt(z):
        return tf.identity(z), lambda dz: dz * bad

    model, host_loop, schedule = tiny.trainer()
    encode = model.learner.encode_text
    model.learner.encode_text = lambda *args, **options: spoilt(encode(*args, **options))
    before = [variable.numpy() for variable in model.learner.trainable_variables]
    for value in (np.nan, np.inf):
        bad.assign(value)
        result = host_loop.run(schedule.plan(0), 1)
        assert result.of_each["accepted"].tolist() == [0.0]
        assert np.isfinite(result.metrics["train/loss"])
        assert not np.isfinite(result.metrics["train/gradient_norm"])
        assert len(set(result.picks[0].tolist())) == tiny.SUB_BATCH
        for old, variable in zip(before, model.learner.trainable_variables, strict=True):
            np.testing.assert_array_equal(old, variable.numpy())
