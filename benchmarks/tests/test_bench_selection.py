"""The bench compares like with like."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import selection_report
from benchmarks.dense_listing import dense_listing
from benchmarks.figures import emit
from benchmarks.selection import SEED, random_models
from benchmarks.timing import fastest
from jest_tf.errors import UserError
from jest_tf.selection import SelectionSpec, select


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_dense_listing_and_select_pick_the_same(loss):
    spec = SelectionSpec(160, 32, loss=loss, n_chunks=4)
    models, seed = random_models(160, 16), tf.constant(SEED)
    ours = select(spec, *models, tf.ones([160], tf.bool), seed).positions
    np.testing.assert_array_equal(ours, dense_listing(spec, *models, seed))


def test_fastest_times_each_program_the_asked_number_of_times():
    calls = []
    programs = {name: lambda name=name: calls.append(name) for name in "ab"}
    assert set(fastest(programs, repeats=3)) == {"a", "b"}
    assert calls == ["a", "b"] * 4  # One call each to compile.


def test_the_page_holds_the_measured_lines():
    page = selection_report.PAGE.read_text()
    assert selection_report.table(selection_report.read(selection_report.RESULTS)) in page


def test_a_line_replaces_the_earlier_one_of_its_case(tmp_path):
    results, page = str(tmp_path / "lines.jsonl"), tmp_path / "page.md"
    for value, replicas in ((1.0, 1), (2.0, 2), (1.5, 1)):
        context = {"super_batch": 10_240, "replicas": replicas}
        line = emit("over_floor", value, "<= 1.3", "x", numerator=value, denominator=1.0,
                    context=context)  # fmt: skip
        selection_report.keep(results, line)
    assert [line["value"] for line in selection_report.read(results)] == [2.0, 1.5]
    page.write_text("above\n<!-- measured: by x -->\nold\n<!-- /measured -->\nbelow\n")
    selection_report.write(results, page)
    text = page.read_text()
    assert "| `over_floor` | B 10,240, 2 devices | 2 x | <= 1.3 | 2 / 1 |" in text
    assert text.startswith("above") and text.endswith("below\n") and "old" not in text
    with pytest.raises(UserError, match="no section"):
        page.write_text("no markers")
        selection_report.write(results, page)
