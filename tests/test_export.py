"""Exporting a workdir from the command line."""

import numpy as np
import pytest
import tensorflow as tf
from commands import run as run_command
from small_run import TOTAL_STEPS, small_run

from jest_tf import export
from jest_tf.errors import UserError
from jest_tf.evaluation.evaluators import run_evaluation
from jest_tf.results import write_result
from jest_tf.serving.encoders import ExportEncoder, ModelEncoder
from jest_tf.training.run.restore import load_workdir


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("run"))


def test_the_command_exports_the_newest_checkpoint_with_its_card(workdir, tmp_path, capsys):
    run = load_workdir(str(workdir))
    live = ModelEncoder(run.model, run.tokenizer, 8, 12, {"model": "m", "step": TOTAL_STEPS})
    result = run_evaluation("zero_shot", run.config.evals.zero_shot, live)
    write_result(workdir / "evaluations", result)

    assert run_command(export, [f"--workdir={workdir}", f"--out={tmp_path / 'e'}"]) == 0
    told = capsys.readouterr().out
    encoder = ExportEncoder(str(tmp_path / "e"))
    assert encoder.fingerprint in told and f"step {TOTAL_STEPS}" in told
    texts = ["red square", "dark blue"]
    truth = run.model.encode_text(run.tokenizer(tf.constant(texts)))
    np.testing.assert_allclose(encoder.encode_text(texts), truth, atol=1e-5)

    card = (tmp_path / "e" / "model_card.md").read_text()
    for line in (
        "# Model card: squares",
        f"| checkpoint | {workdir} at step 30 |",
        f"| training pairs | {run.config.data.train} |",
        "| policy | uniform |",
        "| steps | 30 of 30 |",
        "| examples trained on | 3,840 |",
        "| examples.trained | 3,840 |",
        "| python | 3.11.0 |",
        "- Code: Apache-2.0",
        f"| zero_shot | {run.config.data.train} | top1 | {result['metrics']['top1']:.4g} |",
    ):
        assert line in card.splitlines()
    assert "secret" not in card and "acc1" not in card


def test_wrong_workdirs_are_one_message(tmp_path, capsys):
    assert run_command(export, [f"--workdir={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}")
    assert run_command(export, []) == 2
    assert capsys.readouterr().err.startswith("error: --workdir is missing")


def test_a_checkpoint_that_is_not_there_is_refused(workdir):
    with pytest.raises(UserError, match="11"):
        load_workdir(str(workdir), 11)
