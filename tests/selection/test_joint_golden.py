"""The picks of the golden vectors, which were made by brute force independently of this code."""

import json
import pathlib

import numpy as np
import oracle
import pytest
import tensorflow as tf

from jest_tf.selection import Embeddings, SelectionSpec, select

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "cases.json").read_text())
FIELDS = ("zimg", "ztxt", "scale", "bias")
CRITERIA = ("learnability", "hard_learner", "easy_reference")


def load(name):
    return dict(np.load(GOLDEN / f"{name}.npz"))


def model(arrays, who):
    return {field: arrays[f"{who}_{field}"] for field in FIELDS}


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("name", CASES)
def test_picks_equal_the_golden_picks(name, loss):
    arrays, case = load(name), CASES[name]
    learner, reference = (
        Embeddings(**{k: tf.constant(v) for k, v in model(arrays, who).items()})
        for who in ("learner", "reference")
    )
    for criterion in CRITERIA:
        spec = SelectionSpec(
            super_batch=case["super_batch"],
            sub_batch=case["sub_batch"],
            n_chunks=case["n_chunks"],
            criterion=criterion,
            loss=loss,
        )
        selection = select(
            spec,
            learner,
            reference,
            tf.ones([spec.super_batch], tf.bool),
            tf.constant([0, 0]),
            gumbel=tf.constant(arrays["gumbel"]),
        )
        expected = arrays[f"{loss}_{criterion}_picks"].reshape(spec.n_chunks, -1)
        got = selection.positions.numpy().reshape(spec.n_chunks, -1)
        np.testing.assert_array_equal(np.sort(got, 1), np.sort(expected, 1), criterion)
        assert selection.n_candidates == spec.super_batch


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("name", CASES)
def test_oracle_equals_the_golden_logits(name, loss):
    """Two truths written apart from each other must agree before either judges the code."""
    arrays = load(name)
    learner, reference = model(arrays, "learner"), model(arrays, "reference")
    for criterion in CRITERIA:
        picks = arrays[f"{loss}_{criterion}_picks"].reshape(CASES[name]["n_chunks"], -1)
        logits_given = oracle.logits_given(loss, criterion, learner, reference)
        for c, golden in enumerate(arrays[f"{loss}_{criterion}_logits"]):
            logits = logits_given(picks[:c].ravel())
            rest = np.setdiff1d(np.arange(len(logits)), picks[:c])
            np.testing.assert_allclose(logits[rest], golden[rest], rtol=1e-6, atol=1e-5)
