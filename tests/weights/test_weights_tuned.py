"""End to end: a Hugging Face folder in, tuned with JEST, evaluated, and out as such a folder."""

import numpy as np
import pytest
import tensorflow as tf
from golden_models import imported
from small_run import small_data

from jest_tf.config import base_config, evaluation
from jest_tf.config_checks import problems
from jest_tf.model_record import ModelRecord
from jest_tf.results import read_results
from jest_tf.serving.public_formats import export_public
from jest_tf.training import loop
from jest_tf.training.run.imported import Options, import_run
from jest_tf.training.run.restore import load_workdir
from jest_tf.tuning import follow_init


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The folder of the data and of an imported workdir."""
    folder = tmp_path_factory.mktemp("start")
    small_data(folder, n=32)
    imported("siglip", folder)
    return folder


def config_of(start, how: str):
    c = base_config()
    c.total_steps, c.optimizer.warmup_steps, c.optimizer.learning_rate = 2, 1, 1e-3
    c.model.init = str(start / "siglip-run")
    c.model.image_size = c.model.patch_size = c.data.image_size = 0  # those of the model
    c.data.train, c.data.data_dir = str(start / "data.json"), str(start / "prepared")
    c.data.n_lanes = 1
    c.selection.policy, c.selection.criterion = "joint", "hard_learner"
    c.selection.super_batch, c.selection.sub_batch, c.selection.n_chunks = 8, 4, 2
    c.strategy.jit_compile = False
    c.evals.retrieval = evaluation("retrieval", str(start / "data.json"), batch_size=8)
    if how == "lora":
        c.model.lora.rank = 2
    return c


@pytest.mark.parametrize("how", ["lora", "full"])
def test_there_and_back_with_training_between(how, start, tmp_path):
    config = config_of(start, how)
    follow_init(config, str(tmp_path / "tuned"))
    assert problems(config) == []
    assert loop.train(config, str(tmp_path / "tuned")) == 0
    assert read_results(tmp_path / "tuned" / "evaluations", 2)
    first, tuned = load_workdir(str(start / "siglip-run")), load_workdir(str(tmp_path / "tuned"))
    assert ModelRecord.load(tmp_path / "tuned").pixels == first.model.pixels  # the margin too

    export_public(tuned.model, tuned.tokenizer, "huggingface", str(tmp_path / "hf"))
    import_run(str(tmp_path / "hf"), str(tmp_path / "again"), Options(), report=lambda line: None)
    again = load_workdir(str(tmp_path / "again"))
    images = tf.random.stateless_uniform([3, 30, 30, 3], [0, 1], -1, 1)
    texts = tf.constant(["red square", "The BLUE, dark square!", ""])
    zimg = [run.model.encode_image(images).numpy() for run in (first, tuned, again)]
    ztxt = [run.model.encode_text(run.tokenizer(texts)).numpy() for run in (first, tuned, again)]
    np.testing.assert_allclose(zimg[2], zimg[1], atol=1e-6)
    np.testing.assert_allclose(ztxt[2], ztxt[1], atol=1e-6)
    assert min(np.abs(z[1] - z[0]).max() for z in (zimg, ztxt)) > 1e-6
