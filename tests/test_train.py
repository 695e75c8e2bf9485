"""Training end to end, in the shipped config shrunk: resumes exactly, refuses what it must."""

import json
import os
import pathlib
import re
import signal

import pytest
import safetensors.numpy
from ml_collections import ConfigDict
from small_run import ONE_BLOCK

from jest_tf import config_flag
from jest_tf.errors import UserError
from jest_tf.files import steps_with_file
from jest_tf.monitoring.ledger import read_ledger
from jest_tf.monitoring.metrics_log import read_metrics
from jest_tf.training import loop

EMOJI = pathlib.Path(__file__).parents[1] / "configs" / "emoji.py"
STEPS = 9


def shrunk(data_dir, argument: str, reference=""):
    """configs/emoji.py with a model that steps in milliseconds, on the fewest pairs."""
    c = config_flag.load(EMOJI, argument)
    c.total_steps = STEPS
    c.optimizer.warmup_steps = 2
    c.data.data_dir = str(data_dir)
    c.data.train = c.data.vocab_from = "tfds:emoji_captions/eval_retrieval:test"
    c.data.vocab_size = 300
    c.data.image_size = c.model.image_size = 16
    c.model.variant, c.model.patch_size = "nano", 8
    c.model.sizes = ConfigDict(ONE_BLOCK)
    c.selection.sub_batch = 32 if c.selection.policy == "uniform" else 8
    c.selection.super_batch = 32
    c.selection.n_chunks = 4
    c.reference.workdir = str(reference)
    c.strategy.jit_compile = False
    c.strategy.deterministic = True
    c.log.every_steps = 4
    c.checkpoint.every_steps = 3
    for spec in c.evals.values():
        spec.every_steps, spec.data = 0, f"{spec.data}[:48]"
    return c


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data dir, with space")


@pytest.fixture(scope="module")
def reference(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reference")
    assert loop.train(shrunk(data_dir, "reference"), str(workdir)) == 0
    return workdir


@pytest.fixture(scope="module")
def finished(data_dir, reference, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("joint")
    assert loop.train(shrunk(data_dir, "policy=joint", reference), str(workdir)) == 0
    return workdir


def state_of(workdir: pathlib.Path) -> dict:
    """All of a run that must not depend on interruptions."""
    checkpoint = workdir / "checkpoints" / f"step-{STEPS:08d}"
    arrays = safetensors.numpy.load_file(checkpoint / "variables.safetensors")
    variables = {name: array.tobytes() for name, array in arrays.items()}
    ledger = json.loads((checkpoint / "state.json").read_text())["state"]["ledger"]
    ledger.pop("seconds")
    metrics = [
        {
            k: v
            for k, v in line.items()
            if not {"seconds", "time", "wait"} & set(re.split(r"\W|_", k))
        }
        for line in read_metrics(workdir / "metrics.jsonl")
    ]
    picks = (workdir / "picks" / "ids.bin").read_bytes()
    known = {k: v.tobytes() for k, v in read_ledger(workdir / "ledger").columns.items()}
    return {
        "variables": variables, "ledger": ledger, "metrics": metrics, "picks": picks,
        "known of each record": known,
    }  # fmt: skip


def test_a_run_leaves_what_the_readme_promises(finished):
    for name in ("config.json", "environment.json", "vocab.txt", "reference.json"):
        assert (finished / name).is_file()
    assert list((finished / "tensorboard").glob("events.*"))
    lines = list(read_metrics(finished / "metrics.jsonl"))
    assert [line["step"] for line in lines if "train/loss" in line] == [4, 8, 9]
    last = {k: v for line in lines for k, v in line.items()}
    assert last["cost/examples_scored"] == 32 * STEPS
    assert last["cost/examples_trained"] == 8 * STEPS
    assert {"selection/joint_score", "selection/joint_score_uniform"} <= set(last)
    assert 0 <= last["eval/retrieval/image_to_text/recall@10"] <= 1
    # 8 of 32 are picked, all of one source, and no record of it is broken.
    assert last["acceptance/emoji_captions/eval_retrieval"] == 0.25
    assert 0 <= last["train/pool_accuracy"] <= 1 and last["train/reference_scale"] > 0
    assert list((finished / "tensorboard" / "by_gflop").glob("events.*"))
    results = sorted(p.name for p in (finished / "evaluations").iterdir())
    assert results == [f"retrieval-{STEPS:08d}.json", f"zero_shot-{STEPS:08d}.json"]
    cost = json.loads((finished / "evaluations" / results[0]).read_text())["cost"]
    assert cost["steps"] == STEPS and sum(cost["flops"].values()) == last["cost/flops"]
    assert sum(cost["seconds"].values()) == pytest.approx(last["cost/seconds"])
    known = read_ledger(finished / "ledger").columns
    assert known["loaded"].sum() == known["scored"].sum() == 32 * STEPS
    assert known["selected"].sum() == 8 * STEPS
    assert steps_with_file(finished / "ledger")[-1] == STEPS


def test_interrupted_twice_and_continued_equals_uninterrupted(
    data_dir, reference, finished, tmp_path
):
    config = shrunk(data_dir, "policy=joint", reference)
    for number, at in ((signal.SIGTERM, 5), (signal.SIGINT, 7)):

        def interrupt(step, result, number=number, at=at):
            if step == at:
                os.kill(os.getpid(), number)

        assert loop.train(config, str(tmp_path), interrupt) == 128 + number
        assert (tmp_path / "checkpoints" / f"step-{at:08d}").is_dir()
    assert loop.train(config, str(tmp_path)) == 0
    found, expected = state_of(tmp_path), state_of(finished)
    for part in expected:
        assert found[part] == expected[part], part


def test_a_finished_run_is_not_trained_again(data_dir, reference, finished, capfd):
    before = state_of(finished)
    assert loop.train(shrunk(data_dir, "policy=joint", reference), str(finished)) == 0
    assert state_of(finished) == before
    told = capfd.readouterr().err
    assert "All 9 steps are done" in told and "--config.total_steps" in told
    assert "image_to_text/recall@1" in told and "retrieval-00000009.json" in told


def test_another_config_is_refused_with_the_difference(data_dir, reference, finished):
    config = shrunk(data_dir, "policy=joint", reference)
    config.selection.temperature = 2.0
    with pytest.raises(UserError, match=r"selection.temperature: 1.0 there, 2.0 now"):
        loop.train(config, str(finished))


def test_a_reference_with_another_vocabulary_is_refused(data_dir, reference, tmp_path):
    config = shrunk(data_dir, "policy=joint", reference)
    config.data.vocab_size = 280
    with pytest.raises(UserError, match=r"data.vocab=.*reference"):
        loop.train(config, str(tmp_path))


def test_a_reference_whose_config_and_weights_disagree_is_refused(data_dir, reference, tmp_path):
    other = tmp_path / "reference"
    other.mkdir()
    for name in ("vocab.txt", "checkpoints"):
        os.symlink(reference / name, other / name)
    content = json.loads((reference / "config.json").read_text())
    content["model"]["patch_size"] = 16
    (other / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="patch|shape"):
        loop.train(shrunk(data_dir, "policy=joint", other), str(tmp_path / "run"))


def test_too_many_refused_steps_stop_the_run_with_its_ids(data_dir, tmp_path, monkeypatch):
    config = shrunk(data_dir, "policy=uniform")
    config.log.max_refused_steps = 2
    config.model.init_scale = 1e38  # the loss overflows from the first step on
    assert loop.train(config, str(tmp_path)) == loop.EXIT_STOPPED
    refused = list(read_metrics(tmp_path / "refused_steps.jsonl"))
    assert [line["step"] for line in refused] == [1, 2, 3]
    assert len(refused[0]["ids"].split()) == 32
    assert (tmp_path / "checkpoints" / "step-00000003").is_dir()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("data.train", "tfds:emoji_captions/pol:train", "emoji_captions"),
        ("data.train", "no/such/manifest.json", "no/such/manifest.json"),
        ("data.vocab", "no/vocab.txt", "no/vocab.txt"),
        ("reference.workdir", "no/such/run", "no/such/run"),
        ("strategy.kind", "tpu", "no TPU was found"),
    ],
)
def test_wrong_inputs_are_found_before_the_first_step(
    field, value, expected, data_dir, reference, tmp_path
):
    config = shrunk(data_dir, "policy=joint", reference)
    parent, _, name = field.rpartition(".")
    config[parent][name] = value
    with pytest.raises(UserError, match=expected):
        loop.train(config, str(tmp_path))
    assert not (tmp_path / "checkpoints").exists()
