"""The formulas of docs/selection.md: printed there as generated, and right."""

import pathlib

import numpy as np

from benchmarks import selection_costs
from jest_tf.selection import SelectionSpec

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "selection.md"


def test_docs_hold_the_generated_tables():
    text = DOCS.read_text()
    assert selection_costs.cost_table() in text
    assert selection_costs.traffic_table() in text


def test_expected_surplus_is_what_random_picks_give():
    spec, replicas = SelectionSpec(4_096, 1_024), 32
    rng = np.random.default_rng(0)
    share = spec.sub_batch // replicas
    surplus = []
    for _ in range(200):
        home = rng.permutation(spec.super_batch)[: spec.sub_batch] // (4_096 // replicas)
        counts = np.bincount(home, minlength=replicas)
        surplus.append(np.maximum(counts - share, 0).sum())
    expected = selection_costs.expected_surplus(spec, replicas)
    np.testing.assert_allclose(np.mean(surplus), expected, rtol=0.05)
