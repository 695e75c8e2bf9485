"""Acceptance per source against counting by hand."""

import numpy as np

from jest_tf.training.step_log import Acceptance


def test_shares_of_the_valid_candidates_over_steps_then_anew():
    acceptance = Acceptance(["web", "books"])
    source = np.array([0, 0, 0, 1, 1])
    acceptance.add(
        np.arange(5), source, np.array([True, True, True, True, False]), np.array([1, 4])
    )
    acceptance.add(np.arange(5, 10), source, np.ones([5], bool), np.array([5, 6, 8, 99]))
    # Web: 6 candidates, 1, 5 and 6 picked. Books: 3 (4 cannot be read), 8 picked.
    assert acceptance.take() == {"acceptance/web": 3 / 6, "acceptance/books": 1 / 3}
    assert acceptance.take() == {}
