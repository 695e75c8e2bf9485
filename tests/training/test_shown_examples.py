"""Examples are kept often at first and rarely later, so that a long run's log stays small."""

from jest_tf.training.step_log import KEPT_AT_FULL_CADENCE, shows_examples


def test_the_cadence_halves_each_time_the_run_doubles():
    every, n = 50, KEPT_AT_FULL_CADENCE
    shown = [step for step in range(1, 16 * n * every + 1) if shows_examples(step, every)]
    assert shown[:n] == [every * i for i in range(1, n + 1)]
    assert len(shown) == n + 4 * n // 2
    assert shown[-1] == 16 * n * every and shown[-1] - shown[-2] == 16 * every


def test_a_step_that_was_shown_would_be_shown_by_a_resumed_run_too():
    """It is a function of the step alone."""
    assert shows_examples(3 * 7, 7) and not shows_examples(3 * 7 + 1, 7)
