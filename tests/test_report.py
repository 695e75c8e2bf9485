"""The selection report: its numbers against the files it read, and that it stands alone."""

import html.parser
import re
import shutil

import numpy as np
import pytest
from commands import run as run_command
from PIL import Image
from sample_workdir import HOSTILE, make_run

from examples.emoji import builder as emoji
from jest_tf import report as command
from jest_tf.config import differences
from jest_tf.errors import UserError
from jest_tf.monitoring.run_history import load_run, load_runs
from jest_tf.monitoring.samples import GROUPS
from jest_tf.report import write_picture, write_report


class Page(html.parser.HTMLParser):
    """Collects tags, texts and addresses, and checks that tags nest."""

    VOID = {"meta", "img", "br"}

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text, self.addresses, self._open = [], [], [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "action", "data")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def report(workdirs, out) -> Page:
    write_report([str(w) for w in workdirs], out)
    return Page(out.read_text(encoding="utf-8"))


def test_the_page_stands_alone_and_shows_hostile_texts_as_text(tmp_path):
    run = make_run(tmp_path / "a run é")
    page = report([run], tmp_path / "report.html")
    assert "script" not in page.tags and "link" not in page.tags
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    text = (tmp_path / "report.html").read_text()
    assert not re.search(r"url\((?!#)|@import|https?:(?!//www.w3.org/)", text)
    assert HOSTILE in "".join(page.text)
    assert page.tags.count("img") == 2 * 24
    text = " ".join(page.text)
    assert "trains on the 16 that the policy joint selects by learnability, in 16 chunks" in text
    assert all(title in text for title in GROUPS.values())


def test_two_runs_side_by_side_with_their_differences(tmp_path):
    runs = [make_run(tmp_path / p, policy=p) for p in ("joint", "uniform")]
    text = " ".join(report(runs, tmp_path / "report.html").text)
    assert "joint against uniform" in text
    assert "selection.policy" in text and "finished" in text
    # 16 of 128 were trained on: one in eight of every kind, were the choice blind.
    assert "Label “shuffled”" in text and "of these (chance: 12%)" in text
    assert "fewer than two of these runs have a retrieval evaluation" in text
    configs = [run.config for run in load_runs(map(str, runs), 0)]
    assert set(differences(*configs)) == {"name", "selection.policy"}


def test_a_run_has_one_colour_in_every_chart(tmp_path):
    runs = [make_run(tmp_path / p, policy=p) for p in ("joint", "uniform")]
    write_report([str(w) for w in runs], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    entries = re.findall(r"border-color:var\(--line-(\d)\)\"></i>(joint|uniform)\b", text)
    assert len(entries) > 20 and set(entries) == {("0", "joint"), ("1", "uniform")}


def test_evaluations_are_a_table_and_curves_where_there_are_several(tmp_path):
    several = make_run(tmp_path / "several")
    page = report([several], tmp_path / "report.html")
    assert "50.0% at step 40" in " ".join(page.text)
    shown = [text for text in page.text if text == "retrieval/image_to_text/recall@1"]
    assert len(shown) == 3  # table, steps, FLOPs
    once = make_run(tmp_path / "once", n_steps=10)
    page = report([once], tmp_path / "report.html")
    assert page.text.count("retrieval/image_to_text/recall@1") == 1


def test_the_picture_shows_the_newest_picks(tmp_path):
    run = make_run(tmp_path / "run", n_samples=2)
    assert write_picture(str(run), tmp_path / "picks.png") == 40
    with Image.open(tmp_path / "picks.png") as picture:
        assert picture.width > picture.height > 300
    shutil.rmtree(run / "samples")
    with pytest.raises(UserError, match="holds no examples"):
        write_picture(str(run), tmp_path / "picks.png")


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = load_runs([str(make_run(tmp_path / seed)) for seed in ("seed_0", "seed_1")], 0)
    assert [run.name for run in runs] == ["joint (seed_0)", "joint (seed_1)"]


def test_history_equals_the_files(tmp_path):
    run = load_run(make_run(tmp_path / "run", n_samples=5), n_sample_steps=3)
    assert list(run.series["train/loss"].value[:2]) == [5.0, 2.5]
    np.testing.assert_allclose(run.flops_at(np.array([0, 7, 40])), [0, 7e9, 40e9])
    assert list(run.samples) == [8, 24, 40]
    noise = emoji.noise_by_id()
    raw = np.fromfile(tmp_path / "run" / "picks" / "ids.bin", "<i8")
    broken = {"shuffled", "boilerplate", "truncated", "bad_image"}
    share = np.mean([noise[i] in broken for i in raw])
    assert np.mean([w.noisy for w in run.windows]) == pytest.approx(share)
    assert run.windows[-1].n_distinct_so_far == len(set(raw.tolist()))
    assert sum(run.pool.values()) == pytest.approx(1)


def test_an_unfinished_run_without_extras_gives_a_page(tmp_path):
    run = make_run(tmp_path / "run", n_steps=5, n_samples=1)
    (run / "environment.json").unlink()
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").touch()
    for part in ("picks", "samples"):
        shutil.rmtree(run / part)
    text = " ".join(report([run], tmp_path / "report.html").text)
    assert "0 of 5 steps done" in text
    (run / "metrics.jsonl").unlink()  # before the first line
    text = " ".join(report([run], tmp_path / "report.html").text)
    assert "0 of 5 steps done" in text


def test_what_is_no_run_is_one_clear_message(tmp_path):
    with pytest.raises(UserError, match=r"not the workdir of a run: it has no config\.json"):
        write_report([str(tmp_path)], tmp_path / "report.html")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match=r"config.json holds no config of a run, but '\[1\]'"):
        write_report([str(tmp_path)], tmp_path / "report.html")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "environment.json").write_text("[]")
    with pytest.raises(UserError, match=r"environment.json holds no versions, but '\[\]'"):
        write_report([str(tmp_path)], tmp_path / "report.html")


def test_2000_steps_stay_small(tmp_path):
    run = make_run(tmp_path / "run", n_steps=2000, n_samples=100)
    n_bytes = write_report([str(run)], tmp_path / "report.html")
    assert 100_000 < n_bytes < 10_000_000


def test_command_line(tmp_path, capsys):
    runs = [make_run(tmp_path / name, n_steps=10, policy=name) for name in ("joint", "uniform")]
    words = [f"--workdir={runs[0]}", "--compare", runs[1], runs[1]]
    assert run_command(command, words) == 0
    assert (runs[0] / "report.html").stat().st_size > 10_000
    assert f"wrote {runs[0] / 'report.html'}" in capsys.readouterr().out
