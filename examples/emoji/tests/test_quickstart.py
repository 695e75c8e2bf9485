"""The main job end to end, shortened: what it leaves behind and what its page says."""

import contextlib
import importlib
import io
import json
import re

import numpy as np
import pytest
from commands import run
from sample_workdir import some_samples

from examples.emoji import builder as emoji
from examples.emoji import quickstart, quickstart_docs, speed
from examples.emoji.demos import DEMOS
from jest_tf.monitoring.samples import write_samples

STEPS = 10


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory, pytestconfig):
    """Trainings are processes, as for a user; all else runs in this one."""
    workdir, said = tmp_path_factory.mktemp("quick start") / "run", io.StringIO()
    in_a_process = quickstart.Quickstart.execute

    def execute(self, words, watch):
        if watch:
            return in_a_process(self, words, watch)
        return run(importlib.import_module(words[2]), words[3:])

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.chdir(pytestconfig.rootpath)
        patch.setattr(quickstart.Quickstart, "execute", execute)
        # A model of a user's size: what conftest.py does not optimise runs longer than it compiles.
        patch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=1")
        flags = [f"--workdir={workdir}", f"--data_dir={data_dir}", f"--steps={STEPS}"]
        assert run(quickstart, flags) == 0
    return workdir, said.getvalue()


def test_rows_tell_the_base_and_both_runs(finished):
    folder, output = finished
    rows = {row["name"]: row for row in json.loads((folder / "results.json").read_text())}
    assert list(rows) == ["base", "uniform", "joint"]
    assert [row["steps"] for row in rows.values()] == [0, STEPS, STEPS]
    assert rows["joint"]["examples_scored"] == 5 * rows["joint"]["examples_trained"]
    assert rows["uniform"]["examples_scored"] == 0
    # 40% of the pool is noisy; the base tells enough of it from the first step on.
    assert rows["uniform"]["picked_broken"] == pytest.approx(0.4, abs=0.05)
    assert rows["joint"]["picked_broken"] < 0.33
    assert rows["base"]["text_to_image_r5"] > 20 / 1362  # far above chance
    for word in ("import_weights", "jest_tf.export", "jest_tf.retrieve index", "index.html"):
        assert word in output


def test_the_page_shows_table_curves_examples_and_answers(finished):
    folder, _ = finished
    page = (folder / "index.html").read_text()
    for heading in ("Result", "Search", "Curves", "Selected and rejected", "Your own data"):
        assert f"<h2>{heading}</h2>" in page
    assert "Against steps" in page and "Against FLOPs" in page
    assert page.count('class="card mark"') >= 1 and "✓ right" in page
    for query in DEMOS["emoji"].queries:
        assert f"“{query.text}”" in page
    # Nothing is fetched from anywhere.
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert (folder / "joint/queries/contact_sheet.png").exists()


@pytest.mark.parametrize("name", DEMOS)
def test_right_answers_exist_and_are_rare(name):
    demo = DEMOS[name]
    if name == "emoji":
        rows = emoji.read_rows(emoji.SOURCE_DIR, "eval_retrieval.jsonl")
        captions = [r["caption"] for r in rows if emoji.split_of(r["key"]) == "test"]
    else:
        import pyarrow.parquet as pq

        captions = pq.read_table(f"{demo.source}/test.parquet")["caption"].to_pylist()
    for query in demo.queries:
        right = sum(map(demo.right(query), captions))
        assert 1 <= right < 0.15 * len(captions), query


@pytest.mark.parametrize("name", DEMOS)
def test_every_run_has_an_expected_speed(name):
    runs = {"uniform", "joint"} | ({"reference"} if DEMOS[name].has_reference else set())
    assert set(DEMOS[name].speeds) == runs


def lines(seconds_a_step: float) -> list[dict]:
    return [{"step": s, speed.SECONDS: 40 + seconds_a_step * s} for s in (10, 20, 30)]


def test_a_slow_run_is_told_with_what_it_costs():
    expected = DEMOS["emoji"].speeds["joint"]
    assert speed.slowness(expected, lines(1 / expected), load=0.1) == ""
    assert speed.slowness(expected, lines(10 / expected)[:2], load=9.0) == ""
    said = speed.slowness(expected, lines(10 / expected), load=9.0)
    assert f"{expected / 10:.2g} steps/s" in said and f"{expected:g}" in said and "load 9.0" in said


def test_the_pictures_broken_pairs_are_counted(tmp_path):
    by_kind = {"clean": [], "shuffled": [], "icon": []}
    for i, kind in emoji.noise_by_id().items():
        by_kind.get(kind, []).append(i)
    samples = some_samples(np.random.default_rng(0))  # eight of each group
    samples.id[samples.group == "chosen"] = by_kind["clean"][:7] + by_kind["shuffled"][:1]
    samples.id[samples.group == "rejected_noise"] = by_kind["shuffled"][:6] + by_kind["icon"][:2]
    write_samples(tmp_path / "samples", 20, samples)
    told = quickstart_docs.told_picks(str(tmp_path))
    assert "1 of the 8 pairs in row 1" in told and "6 of the 8 in row 2" in told and "40%" in told
