"""Tuning end to end on a small data set: from a trained workdir, in parts, and back out."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import load_file
from small_run import small_data

from jest_tf.config import base_config, evaluation
from jest_tf.config_checks import problems
from jest_tf.errors import UserError
from jest_tf.monitoring.metrics_log import read_metrics
from jest_tf.results import read_result
from jest_tf.runtime.peers import Peers
from jest_tf.training import loop
from jest_tf.training.run.restore import load_workdir
from jest_tf.tuning import follow_init

BOTH = ("retrieval", "zero_shot")
pytestmark = pytest.mark.usefixtures("memory_given_back")


def config_of(data: str, folder: pathlib.Path, evals: tuple[str, ...] = (), **fields):
    c = base_config()
    c.total_steps, c.optimizer.warmup_steps = 3, 1
    c.data.train, c.data.data_dir = data, str(folder / "prepared")
    c.data.image_size, c.data.n_tokens, c.data.vocab_size = 12, 4, 40
    c.model.variant, c.model.image_size, c.model.patch_size = "nano", 8, 4
    c.model.sizes = ConfigDict({"image": {"depth": 1}})
    c.selection.super_batch = c.selection.sub_batch = 8
    c.selection.n_chunks = 2
    c.strategy.jit_compile = False
    c.strategy.deterministic = True
    c.log.every_steps = 1
    for kind in evals:
        c.evals[kind] = evaluation(kind, data, batch_size=8)
    for dotted, value in fields.items():
        *path, last = dotted.split("__")
        node = c
        for name in path:
            node = node[name]
        node[last] = value
    return c


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return small_data(tmp_path_factory.mktemp("data"), n=32)


@pytest.fixture(scope="module")
def init(data, tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("init")
    config = config_of(data, workdir, BOTH, optimizer__learning_rate=0.003)
    assert loop.train(config, str(workdir)) == 0
    return workdir


def tune(data: str, init: pathlib.Path, workdir: pathlib.Path, **fields):
    """(exit code, config) of a run that starts from `init`, as the command makes it."""
    followed = {"model__image_size": 0, "model__patch_size": 0, "data__image_size": 0}
    c = config_of(data, init, **(followed | {"model__init": str(init)} | fields))
    follow_init(c, str(workdir))
    assert problems(c) == []
    return loop.train(c, str(workdir)), c


def test_an_export_is_no_start(tmp_path):
    (tmp_path / "model.json").write_text('{"format": 1}')  # of another kind than a run's
    c = base_config()
    c.model.init = str(tmp_path)
    with pytest.raises(UserError, match="holds no model: expected a workdir"):
        follow_init(c, "")


def test_a_run_whose_start_failed_follows_its_init_again(data, init, tmp_path):
    c = config_of(data, init, model__init=str(init))
    (tmp_path / "config.json").write_text(json.dumps(c.to_dict()))  # and no model.json
    follow_init(c, str(tmp_path))
    assert c.data.vocab == str(init) and c.model.variant == "custom"


def weights(workdir: pathlib.Path, step: int | None = None) -> dict[str, np.ndarray]:
    return {v.path: v.numpy() for v in load_workdir(str(workdir), step).model.variables}


def stored(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    """Names and values of a checkpoint."""
    return load_file(workdir / "checkpoints" / f"step-{step:08d}" / "variables.safetensors")


def test_a_run_starts_from_the_weights_and_tells_what_it_forgot(data, init, tmp_path, capfd):
    code, c = tune(data, init, tmp_path / "run", evals=BOTH, evals__zero_shot__every_steps=2)
    assert code == 0
    assert (c.model.image_size, c.model.patch_size, c.data.image_size) == (8, 4, 12)
    before, start = weights(init), weights(tmp_path / "run", 0)
    assert all(np.array_equal(before[path], start[path]) for path in before)
    moments = [v for name, v in stored(tmp_path / "run", 0).items() if name.startswith("optimizer")]
    assert all((np.asarray(m) == 0).all() for m in moments if np.ndim(m)), "a fresh optimizer"

    folder = tmp_path / "run" / "evaluations"
    theirs = read_result(init / "evaluations", "zero_shot", 3)["metrics"]
    first, last = (read_result(folder, "zero_shot", step) for step in (0, 3))
    assert first["metrics"] == pytest.approx(theirs)
    assert "change_since_step_0" not in first
    for metric, change in last["change_since_step_0"].items():
        assert change == last["metrics"][metric] - first["metrics"][metric]
    logged = {k: v for line in read_metrics(tmp_path / "run" / "metrics.jsonl") for k, v in
              line.items()}  # fmt: skip
    assert logged["forgetting/zero_shot/top1"] == last["change_since_step_0"]["top1"]
    assert {"eval/zero_shot/top1", "forgetting/retrieval/image_to_text/recall@1"} <= set(logged)
    printed = capfd.readouterr()
    assert "step 3: zero_shot top1" in printed.out + printed.err
    assert "since step 0)" in printed.out + printed.err


def test_another_size_is_resized_and_a_missing_init_does_not_stop_a_rerun(data, init, tmp_path):
    run, moved = tmp_path / "run", tmp_path / "moved"
    fields = {"model__image_size": 12, "total_steps": 2}
    assert tune(data, init, run, **fields)[0] == 0
    grid = weights(run)["dual_encoder/image/embedding/positions"]
    assert grid.shape[:2] == (3, 3)
    init.rename(moved)
    try:
        assert tune(data, init, run, **fields)[0] == 0
        with pytest.raises(UserError, match="model.init .* holds no model"):
            tune(data, init, tmp_path / "new")
    finally:
        moved.rename(init)


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    assert set(before) == set(after), "adapters are merged"
    return {path for path in before if not np.array_equal(before[path], after[path])}


LOGITS_STAY = {"model__train_scale": False, "model__train_bias": False}


def test_only_the_parts_that_are_named_change(data, init, tmp_path):
    parts = {"model__image__train": "frozen", "model__text__train": "last:1"}
    assert tune(data, init, tmp_path / "run", **LOGITS_STAY, **parts)[0] == 0
    found = changed(weights(init), weights(tmp_path / "run"))
    starts = ("dual_encoder/text/block_1", "dual_encoder/text/norm", "dual_encoder/text/proj")
    assert found and all(path.startswith(starts) for path in found)


@pytest.fixture(scope="module")
def averaged(data, init, tmp_path_factory) -> pathlib.Path:
    """A run with averages, each step saved, whose bias follows the batch."""
    run = tmp_path_factory.mktemp("averaged") / "run"
    saved = {"checkpoint__every_steps": 1, "checkpoint__keep": 4}
    assert tune(data, init, run, optimizer__ema=0.5, model__init_bias="auto", **saved)[0] == 0
    return run


def test_averages_are_what_is_evaluated_and_handed_on(init, averaged):
    path = "dual_encoder/text/projection/kernel"
    expected = weights(init)[path]
    for step in (1, 2, 3):
        own = stored(averaged, step)
        expected = expected + 0.5 * (own[f"learner/{path}"] - expected)
        np.testing.assert_allclose(own[f"average/{path}"], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(weights(averaged)[path], own[f"average/{path}"])
    assert not np.array_equal(own[f"average/{path}"], own[f"learner/{path}"])


def test_a_score_that_halves_stops_the_run_saved(data, init, tmp_path, caplog):
    run = tmp_path / "run"
    fields = {
        "evals": ("zero_shot",),
        "evals__zero_shot__every_steps": 1,
        "optimizer__learning_rate": 1.0,
        "total_steps": 9,
    }
    code, _ = tune(data, init, run, log__min_score_share=1.0, **fields)
    assert code == loop.EXIT_STOPPED
    assert "log.min_score_share" in caplog.text and "of step 0" in caplog.text
    assert tune(data, init, run, log__min_score_share=1.0, **fields)[0] == loop.EXIT_STOPPED
    assert tune(data, init, run, log__min_score_share=0.0, **fields)[0] == 0


def test_every_worker_stops_when_the_first_says_that_a_score_fell(
    data, init, tmp_path, monkeypatch, caplog
):
    """A worker may not see the first one's results; it hears of them with the steps' codes."""
    monkeypatch.setattr(Peers, "of_all_before", lambda self, code: [loop.FORGOT, code])
    monkeypatch.setattr(Peers, "require_equal", lambda *_: None)
    assert tune(data, init, tmp_path / "run", total_steps=9)[0] == loop.EXIT_STOPPED
    assert "see the first worker's log" in caplog.text
    assert stored(tmp_path / "run", 0), "saved before it stopped"


def test_a_run_that_was_killed_ends_as_an_undisturbed_one(data, init, tmp_path):
    """Adapters, averages, moments and the order of the data all go on where the last save was."""
    fields = LOGITS_STAY | {
        "model__lora__rank": 2,
        "model__text__train": "frozen",
        "optimizer__ema": 0.5,
        "checkpoint__every_steps": 1,
        "total_steps": 4,
    }
    run = tmp_path / "run"
    assert tune(data, init, run, **fields)[0] == 0
    undisturbed = stored(run, 4)
    for step in (3, 4):  # what a kill after step 2 leaves
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    assert tune(data, init, run, **fields)[0] == 0
    again = stored(run, 4)
    assert set(again) == set(undisturbed)
    assert any("lora" in name for name in again) and any("average/" in name for name in again)
    for name, value in undisturbed.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    found = changed(weights(init), weights(run))
    kernels = ("qkv_kernel", "out/kernel", "up/kernel", "down/kernel")
    assert all("image/block_" in path and path.endswith(kernels) for path in found)
    assert len(found) == 4, "kernels of the one block, and nothing that has no adapter"


def test_a_model_that_diverges_stops_the_run_and_is_not_told_as_bad_data(
    data, init, tmp_path, caplog
):
    fields = {"optimizer__learning_rate": 1e30, "log__max_refused_steps": 2, "total_steps": 9}
    assert tune(data, init, tmp_path / "run", **fields)[0] == loop.EXIT_STOPPED
    assert "diverge" in caplog.text and "records" not in caplog.text


def test_a_learner_that_is_its_reference_is_refused_before_the_run(
    data, init, tmp_path, monkeypatch
):
    joint = {
        "selection__policy": "joint",
        "selection__sub_batch": 4,
        "reference__workdir": str(init),
    }
    with pytest.raises(UserError, match="learner_weight=0.5.*easy_reference.*another model"):
        tune(data, init, tmp_path / "run", **joint)
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    # The other way out, a weight, is that of the run with a frozen tower below.
    joint["selection__criterion"] = "easy_reference"
    monkeypatch.setattr(loop.Trainer, "run", lambda self: self.step)  # it is ready to begin
    assert tune(data, init, tmp_path / "easy", **joint)[0] == 0


def test_the_bias_may_follow_the_batch(averaged):
    assert weights(averaged, 0)["dual_encoder/bias"] == pytest.approx(-np.log(8))
    content = json.loads((averaged / "config.json").read_text())
    assert content["model"]["init_bias"] == "auto"


def test_a_frozen_image_tower_is_embedded_once_and_no_picture_is_read(data, init, tmp_path):
    """Same picks as with pictures; the reference's embeddings may come from the same cache.

    That it is its own reference is no obstacle to a learner whose loss weighs less.
    """
    cache = tmp_path / "cache"
    joint = {
        "model__image__train": "frozen",
        "selection__policy": "joint",
        "selection__sub_batch": 4,
        "selection__learner_weight": 0.5,
        "reference__workdir": str(init),
        "total_steps": 2,
    }
    assert tune(data, init, tmp_path / "pictures", **joint)[0] == 0
    cached = joint | {"model__image__cache": str(cache), "reference__cache": str(cache)}
    assert tune(data, init, tmp_path / "cached", **cached)[0] == 0
    ids = [(tmp_path / run / "picks" / "ids.bin").read_bytes() for run in ("pictures", "cached")]
    assert ids[0] == ids[1]
    path = "dual_encoder/text/projection/kernel"
    both = [weights(tmp_path / run)[path] for run in ("pictures", "cached")]
    np.testing.assert_allclose(*both, atol=5e-4)

    shards = [pathlib.Path(shard) for shard in pathlib.Path(data).parent.glob("*.tfrecord")]
    for shard in shards:
        shard.rename(shard.with_suffix(".away"))
    try:
        assert tune(data, init, tmp_path / "without", **cached)[0] == 0
    finally:
        for shard in shards:
            shard.with_suffix(".away").rename(shard)
    flops = load_workdir(str(tmp_path / "cached")).state["ledger"]["flops"]
    assert "score_reference" not in flops
