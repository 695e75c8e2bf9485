"""docs/guarantees.md is what its command writes, and every test that it names exists."""

import ast
import json
import pathlib

from benchmarks.faults import page
from benchmarks.faults.__main__ import RESULTS
from benchmarks.faults.promises import SECTIONS
from benchmarks.faults.results import Results
from benchmarks.figures import read

ROOT = pathlib.Path(__file__).resolve().parents[3]


def test_every_named_test_exists():
    named = [test for section in SECTIONS.values() for p in section for test in p.tests]
    assert len(named) > 30
    missing = []
    for name in named:
        file, _, function = name.partition("::")
        path = ROOT / file if file.startswith("benchmarks/") else ROOT / "tests" / file
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.Module([], [])
        tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if not (function in tests or (path.exists() and not function)):
            missing.append(name)
    assert missing == []


def test_the_page_is_what_the_command_writes_and_every_figure_is_on_it():
    results = ROOT / RESULTS
    assert (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8") == page.text(results)
    named = {name for section in SECTIONS.values() for p in section for name in p.figures}
    assert {line["figure"] for line in read(results)} <= named


def test_a_figure_measured_again_replaces_the_earlier_one(tmp_path, capsys):
    results = Results(tmp_path / "new" / "r.jsonl")
    results.add("a", 1 / 3, "small", "s", repeats=2)
    results.add("b", 2, "0", "")
    results.add("a", 0.25, "small", "s")
    found = read(tmp_path / "new" / "r.jsonl")
    assert [(line["figure"], line["value"]) for line in found] == [("b", 2), ("a", 0.25)]
    assert all(line["date"] and line["hardware"] for line in found)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["value"] for line in printed] == [0.3333, 2, 0.25]
