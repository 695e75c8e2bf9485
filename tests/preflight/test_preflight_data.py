"""Data and reference sections against files that are sound, damaged, or missing."""

import json

import numpy as np
import pytest
from small_records import example, write_records

from jest_tf.config import evaluation
from jest_tf.data.reference_cache import CacheWriter
from jest_tf.data.sources import open_source
from jest_tf.preflight.data_checks import check_data, check_mates, check_reference, reference_config
from jest_tf.training.assemble import parts_of


def test_one_record_is_decoded_and_tokenized(config):
    section = check_data(config, n_hosts=1)
    rows = dict(section.rows)
    assert section.problems == []
    assert rows["records"].startswith("3 in 1 shards")
    assert "64 x 64 px of mean 200, caption 'Red square, red'" in rows["first record"]
    assert rows["its tokens"].startswith("[3, 4, 1, 3, 2], 5 of 16, from 5 ")


def test_few_shards_for_many_lanes_are_pointed_out(config):
    config.data.n_lanes = 3
    assert "several lanes read one file" in dict(check_data(config, n_hosts=1).rows)["order"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c.data.update(train="/nowhere"), "no data set at '/nowhere'"),
        (lambda c: c.data.update(n_lanes=4), "fewer than the 4 lanes"),
        (lambda c: c.selection.update(super_batch=4), "loads 4 pairs, and there are 3"),
        (lambda c: c.data.update(vocab="/nowhere.txt"), "no file '/nowhere.txt'"),
        (lambda c: c.data.update(train="tfds:no_such_set:train"), "TFDS has no set 'no_such_set'"),
    ],
)
def test_what_cannot_be_opened_is_a_problem(config, change, problem):
    change(config)
    section = check_data(config, n_hosts=1)
    assert len(section.problems) == 1
    assert problem in section.problems[0]


def test_one_caption_for_all_is_a_problem(config, tmp_path, png):
    (tmp_path / "same").mkdir()
    config.data.train = write_records(tmp_path / "same", [example(png, "Red square")] * 2)
    assert "all captions are 'Red square'" in check_data(config, n_hosts=1).problems[0]


@pytest.mark.parametrize("image, caption", [(b"no image", "a caption"), (None, " ")])
def test_an_unusable_record_names_its_file(config, tmp_path, png, image, caption):
    (tmp_path / "other").mkdir()
    record = example(image or png, caption)
    config.data.train = write_records(tmp_path / "other", [record] * 2)
    assert "a.tfrecord" in check_data(config, n_hosts=1).problems[0]


def test_a_set_that_is_not_prepared_is_not_downloaded(config, tmp_path):
    config.data.tfds_module = "examples.emoji.builder"
    config.data.train = "tfds:emoji_captions/pool:train"
    config.data.data_dir = str(tmp_path / "empty")
    section = check_data(config, n_hosts=1)
    assert "emoji_captions/pool" in dict(section.rows)["not prepared yet"]
    assert not (tmp_path / "empty").exists()


def test_a_fitting_reference_is_described(config, reference):
    section = check_reference(config)
    assert section.problems == []
    assert dict(section.rows)["checkpoint"] == "step 700 of 1,000"
    assert reference_config(config).data.vocab_size == 5


def rewrite(reference, **data):
    file = reference / "config.json"
    stored = json.loads(file.read_text())
    stored["data"].update(data)
    file.write_text(json.dumps(stored))


def test_another_text_length_is_a_problem(config, reference):
    rewrite(reference, n_tokens=8)
    found = "\n".join(check_reference(config).problems)
    assert "its data.n_tokens is 8, this run's 16" in found


def test_another_vocabulary_is_a_problem(config, reference):
    (reference / "vocab.txt").write_text("[PAD]\n[UNK]\n[EOS]\nblue\n")
    (problem,) = check_reference(config).problems
    assert f"Set --config.data.vocab={reference}" in problem


def test_a_reference_without_checkpoint_or_run_is_a_problem(config, reference):
    checkpoint = reference / "checkpoints" / "step-00000700"
    (checkpoint / "manifest.json").unlink()
    assert "holds no checkpoint" in check_reference(config).problems[0]
    config.reference.workdir = str(reference / "nowhere")
    assert "is not the workdir of a run" in check_reference(config).problems[0]


def test_so_many_passes_that_all_is_learned_by_heart_are_a_problem(config):
    config.total_steps = 20_000
    (problem,) = check_data(config, n_hosts=1).problems
    assert "trains 13,333 times on each of the 3 records" in problem
    assert "1,500 steps are 1,000 passes" in problem


def test_captions_that_are_cut_are_told_and_many_are_a_problem(config):
    rows = dict(check_data(config, n_hosts=1).rows)
    assert rows["captions cut"].startswith("0 of 2 captions (0.0%) are cut")
    config.data.n_tokens = 3
    (problem,) = check_data(config, n_hosts=1).problems
    assert "2 of 2 captions (100.0%) are cut" in problem and "--config.data.n_tokens=7" in problem


def test_a_cache_alone_is_a_reference(config, tmp_path):
    folder = str(tmp_path / "cache")
    writer = CacheWriter(
        folder, open_source(config.data.train), identity={"weights": "abc"}, dim=8, scale=10.0,
        bias=-10.0,
    )  # fmt: skip
    writer.write_shard(0, [(n, np.eye(8)[0], np.eye(8)[:1]) for n in range(3)])
    config.selection.policy, config.reference.cache = "joint", folder
    assert "nor a finished reference cache" in check_reference(config).problems[0]
    writer.finish()
    section = check_reference(config)
    assert section.problems == []
    assert dict(section.rows)["embeddings"] == "8 wide, of 3 records"
    assert reference_config(config) is None
    config.selection.super_batch = config.selection.sub_batch = 16
    assert parts_of(config, 1).reference is None


def test_an_evaluation_without_classes_is_a_problem(config):
    config.evals.pairs = evaluation("retrieval", config.data.train)
    section = check_data(config, n_hosts=1)
    assert section.problems == [] and "retrieval on" in dict(section.rows)["evaluation pairs"]
    config.evals.classes = evaluation("zero_shot", config.data.train)
    assert "needs the class of every record" in check_data(config, n_hosts=1).problems[0]


def test_near_mates_are_counted_and_a_policy_is_named(config, tmp_path, png):
    section = check_mates(config)
    assert section.problems == []
    rows = dict(section.rows)
    assert rows["same caption"].startswith("b·q = 0.67: 0.33 of"), "two of three are equal"
    several = rows["policy"]
    (tmp_path / "other").mkdir()
    records = [example(png, text) for text in ("red", "blue")]
    config.data.train = write_records(tmp_path / "other", records)
    rows = dict(check_mates(config).rows)
    assert rows["same caption"].startswith("b·q = 0: ")
    assert "independent_top_k" in rows["policy"] and rows["policy"] != several
    config.data.train = "/nowhere"
    assert "no data set at" in dict(check_mates(config).rows)["not counted"]
