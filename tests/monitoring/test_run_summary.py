"""The verdict, from rows written by hand."""

from sample_workdir import row

from jest_tf.monitoring import run_history


def test_verdict_names_the_best_whatever_it_is():
    joint, uniform = row("joint", (0.1, 0.3, 0.1, 0.3)), row("uniform", (0.2, 0.6, 0.2, 0.6))
    assert run_history.retrieval_score(joint) == 0.2
    text = run_history.verdict([joint, uniform])
    assert text.startswith("uniform is ahead") and "40.0%" in text and "2.0 times" in text
    text = run_history.verdict([uniform, uniform | {"name": "twin"}])
    assert text.startswith("Nobody is ahead")
