"""An imported workdir is a run like any other: evaluated, cached, a reference, exported."""

import numpy as np
import pytest
import tensorflow as tf
from golden_models import HERE, imported
from ml_collections import ConfigDict
from small_run import ONE_BLOCK, small_data

from jest_tf.config import base_config, evaluation
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.data.sources import open_source
from jest_tf.errors import UserError
from jest_tf.export import export_run
from jest_tf.model_record import ModelRecord
from jest_tf.results import read_results
from jest_tf.serving.encoders import ExportEncoder
from jest_tf.training import cache_fill, loop
from jest_tf.training.run.restore import load_workdir, reference_identity


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of data and of the imported workdir."""
    folder = tmp_path_factory.mktemp("imported")
    small_data(folder)
    imported("siglip", folder)
    return folder


def config_of(model, **reference):
    c = base_config()
    c.total_steps = 2
    c.data.train = str(model / "data.json")
    c.data.data_dir = str(model / "prepared")
    c.data.image_size = c.model.image_size = 16
    c.data.n_tokens, c.model.variant, c.data.n_lanes = 16, "nano", 1
    c.data.vocab, c.model.sizes = str(model / "siglip-run"), ConfigDict(ONE_BLOCK)
    c.selection.policy, c.selection.super_batch = "joint", 8
    c.selection.sub_batch, c.selection.n_chunks = 4, 2
    c.strategy.jit_compile = False
    for name, value in reference.items():
        c.reference[name] = value
    c.evals.zero_shot = evaluation("zero_shot", str(model / "data.json"))
    return c


def test_it_is_the_reference_of_a_run_that_reads_as_it_does(model, tmp_path):
    workdir = str(model / "siglip-run")
    config = config_of(model, workdir=workdir)
    with pytest.raises(UserError, match=r"resized by antialiased bicubic, 2 px.*cache_reference"):
        loop.train(config, str(tmp_path / "refused"))
    config.data.vocab = str(HERE / "siglip.model")
    with pytest.raises(UserError, match=r"pad1-lower-canonical.*data\.vocab=.*cache_reference"):
        loop.train(config, str(tmp_path / "refused"))


def test_it_is_cached_and_learned_from(model, tmp_path):
    run = load_workdir(str(model / "siglip-run"))
    manifest = open_source(str(model / "data.json"), None)
    folder = str(tmp_path / "cache")
    writer = cache_fill.cache_of_run(run, manifest, folder, dtype="float16", batch_size=4)
    writer.finish()
    cache = ReferenceCache.load(str(tmp_path / "cache"))
    assert cache.identity["pixels"] == "antialiased bicubic, 2 px cut off right and below"
    assert cache.identity == reference_identity(run)
    assert cache.scale == pytest.approx(float(run.model.scale))
    config = config_of(model, cache=str(tmp_path / "cache"), workdir=str(model / "siglip-run"))
    assert loop.train(config, str(tmp_path / "learner")) == 0
    (result,) = read_results(tmp_path / "learner" / "evaluations", 2)
    assert 0 <= result["metrics"]["top1"] <= 1
    # The learner took the tokenizer with its rules, and keeps them.
    record = ModelRecord.load(tmp_path / "learner")
    assert record.tokenizer == run.tokenizer.rule
    assert record.fingerprint == run.tokenizer.fingerprint
    assert load_workdir(str(tmp_path / "learner")).tokenizer.rule == run.tokenizer.rule


def test_its_saved_model_reads_texts_and_pictures_by_its_rules(model, tmp_path):
    run = load_workdir(str(model / "siglip-run"))
    export_run(run, str(model / "siglip-run"), str(tmp_path / "export"))
    encoder = ExportEncoder(str(tmp_path / "export"))
    assert encoder.pixels == run.model.pixels
    texts = ["The DOG, on a photo!", "the dog on a photo"]
    expected = run.model.encode_text(run.tokenizer(tf.constant(texts)))
    np.testing.assert_allclose(encoder.encode_text(texts), expected, atol=1e-5)
    np.testing.assert_allclose(*encoder.encode_text(texts), atol=1e-6)
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    seen = run.model.encode_image(tf.constant(images[:, :30, :30] / 127.5 - 1, tf.float32))
    np.testing.assert_allclose(encoder.encode_image(images), seen, atol=1e-5)
    png = tf.io.encode_png(images[0]).numpy()
    zimg, ok = encoder.encode_image_bytes([png])
    assert ok.all()
    np.testing.assert_allclose(zimg, seen, atol=1e-5)
