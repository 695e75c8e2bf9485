"""The figures beside the docs: one line per figure and condition, shown as they are kept."""

import json

from jest_tf.bench import input_docs


def test_docs_show_the_kept_figures():
    assert input_docs.table() in input_docs.PAGE.read_text(encoding="utf-8")


def test_a_new_measurement_replaces_the_old_one_and_leaves_the_rest(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures: by x -->\nold\n<!-- /figures -->\nafter\n")
    monkeypatch.setattr(input_docs, "PAGE", page)
    monkeypatch.setattr(input_docs, "FIGURES", tmp_path / "figures.jsonl")
    line = {"figure": "speed", "value": 1.0, "goal": ">= 0.9", "unit": "x", "source_px": 512}
    input_docs.keep([line, line | {"source_px": 256}])
    input_docs.keep([line | {"value": 2.5}])
    assert [kept["value"] for kept in input_docs.load()] == [2.5, 1.0]
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("<!-- /figures -->\nafter\n")
    assert "| `speed` | >= 0.9 | 2.5 x | 512 px JPEGs |" in text and "old" not in text
    kept = json.loads((tmp_path / "figures.jsonl").read_text().splitlines()[0])
    assert set(kept) == set(line) | {"date", "hardware"}
