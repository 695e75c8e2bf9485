"""The page as files, from runs that the stand-in wrote; and the command line."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from evidence_fake_run import write_run

from benchmarks.evidence import results, suites
from benchmarks.evidence.grid import make_cells
from benchmarks.evidence.report import contents, evidence_of, load, readme_part, write_report
from benchmarks.evidence.tables import as_csv
from benchmarks.evidence.tuning_page import results_json

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_report_of_the_quick_suite(tmp_path, pool_truth):
    suite, store = suites.SUITES["quick"], results.Store(tmp_path / "runs.jsonl.gz")
    for cell in make_cells(suite.rows, suite.wanted):
        if cell.row.name == suites.TOP_K:
            continue
        score = 0.5 if cell.row.name == suites.JOINT else 0.2
        write_run(cell.config.to_dict(), tmp_path / cell.name, score)
        made = {"command": "c", "wall_seconds": 5.0, "jobs": 1, "load_average": 0.1}
        result = results.collect(cell, tmp_path / cell.name, pool_truth, made)
        store.add(result)

    page = tmp_path / "docs" / "results.md"
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- evidence: generated -->\nold\n<!-- /evidence -->\nafter\n")
    write_report("quick", "COMMAND", store.path, page, pool_truth, readme)

    text = page.read_text()
    assert "`COMMAND --report_only`" in text
    assert "1 declared runs are not finished**: independent_top_k-s0" in text
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (page.parent / link).exists(), link
    # Joint rises to .5 in 180 steps, so it is at .2 near step 72; uniform takes 900.
    steps = re.search(r"\| `steps_speedup` \| ≥ 13x \| ([\d.]+)x", text)
    assert float(steps[1]) == pytest.approx(900 / 72, rel=0.02)

    short = readme.read_text()
    assert short.startswith("before\n") and short.endswith("<!-- /evidence -->\nafter\n")
    assert "| uniform | 1x | 1x | 1x | 20.0 |" in short
    assert re.search(r"\| joint, learnability \| 12\.\dx \(1/1\) \| .* \| 50.0 \|", short)
    assert "| curated only (the reference) |" in short, "the strongest baseline stands there too"
    assert "Training the reference costs" in short
    assert "old" not in short


def test_report_of_the_approximations(tmp_path, pool_truth):
    suite, store = suites.SUITES["approximations"], results.Store(tmp_path / "runs.jsonl.gz")
    shown = ("uniform_same_flops-s0", "full_scores-s0", "patches-s0", "patches-s1")
    for cell in make_cells(suite.rows, suite.wanted):
        if cell.name not in shown:
            continue
        folder = tmp_path / cell.name
        write_run(cell.config.to_dict(), folder, 0.3 if cell.seed else 0.2)
        if cell.row.agreement:
            columns = {"step": [100, 200], "picks_overlap": [0.6, 0.8 + cell.seed / 10]}
            columns |= {"redrawn_overlap": [0.7, 0.7], "rank_correlation": [0.9, 0.95]}
            (folder / results.AGREEMENT).write_text(json.dumps(columns))
        made = {"command": "c", "wall_seconds": 5.0, "jobs": 1, "load_average": 0.1}
        result = results.collect(cell, folder, pool_truth, made)
        store.add(result)
    page = tmp_path / "approximations.md"
    write_report("approximations", "COMMAND", store.path, page, pool_truth)
    text = page.read_text()
    assert "`COMMAND --report_only` from 4 runs" in text
    assert "declared runs are not finished" in text
    lines = [line for line in text.splitlines() if line.startswith("| larger patches: 48/16 ")]
    # The stand-in spends 1 TFLOP a step in every run, 0.4 of it on the reference.
    assert lines[0].split(" | ")[1:3] == ["1.00x", "496"]
    assert "25.0 ± 5.0" in lines[0], "test retrieval: 0.2 and 0.3"
    assert lines[1].split(" | ")[1:] == ["100 · 200", "0.60 · 0.85", "0.70", "0.90 · 0.95 |"]
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (tmp_path / link).exists(), link


@pytest.mark.parametrize("suite", ["main", "tuning", "approximations"])
def test_the_shipped_pages_are_what_the_command_writes(suite, pool_truth):
    family = suites.SUITES[suite].family
    store, page_path = (ROOT / path for path in results.SHIPPED[family])
    command = f"python -m benchmarks.evidence --suite={suite}"
    shown, tried = load(family, command, store, page_path, pool_truth)
    text, tables = contents(family, shown, tried)
    assert page_path.read_text(encoding="utf-8") == text
    assert len(text.splitlines()) <= 200
    for name, table in tables.items():
        kept = page_path.with_suffix("") / f"{name}.csv"
        assert kept.read_text(encoding="utf-8") == as_csv(table), name
    if suite == "tuning":
        assert readme_part(family, shown) in (ROOT / "README.md").read_text(encoding="utf-8")
        goals = json.loads(page_path.with_suffix(".json").read_text(encoding="utf-8"))
        assert goals == results_json(evidence_of(shown))
        assert all(
            {"figure", "value", "goal", "seeds", "command", "revision"} <= set(g) for g in goals
        )


def evidence(*arguments: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "benchmarks.evidence", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        words, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )


def test_dry_run_prints_the_commands_and_runs_nothing(tmp_path):
    done = evidence(
        "--suite=main", "--dry_run", "--only=joint-s1", f"--workdir={tmp_path}/w",
        f"--out={tmp_path}/o",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    names = [line.split()[0] for line in lines[:-1]]
    assert {"joint-s1", "curated-s1", "curated-s0", "tune_joint_0.001-s100"} <= set(names)
    assert not any(name.startswith("uniform") for name in names)
    assert all("python -m jest_tf.train --config=configs/emoji.py:" in line for line in lines[:-1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite=main", "--override=total_steps=3"], "own --out"),
        (["--suite=quick", "--only=joynt*"], "no cell of the suite fits"),
        (["--suite=quick", "--out=x", "--override=total_steps"], "expected FIELD=VALUE"),
    ],
)
def test_wrong_input_is_explained(arguments, message):
    done = evidence(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
