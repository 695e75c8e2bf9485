"""The entry point's flags: each wrong input ends in one line that says how to fix it."""

import subprocess
import sys

import pytest

EMOJI = "--config=configs/emoji.py"


def run_train(*arguments: str, cwd) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jest_tf.train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([EMOJI + ":polcy=x", "--workdir=w"], "did you mean 'policy'"),
        (["--config=configs/nope.py", "--workdir=w"], "configs/nope.py"),
        ([EMOJI, "--config.selection.polcy=x", "--workdir=w"], 'Did you mean "policy"'),
        ([EMOJI, "--config.selecton.policy=x", "--workdir=w"], "selecton"),
        ([EMOJI, "--config.total_steps=many", "--workdir=w"], "total_steps=many"),
        ([EMOJI, "--workdr=w"], "did you mean 'workdir'"),
        ([EMOJI, "workdir=w"], "--name=value"),
        ([EMOJI], "--workdir is missing"),
        (["--workdir=w"], "--config is missing"),
    ],
)
def test_wrong_flags_end_in_one_message(arguments, expected, pytestconfig):
    result = run_train(*arguments, cwd=pytestconfig.rootpath)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and expected in result.stderr
    assert "Traceback" not in result.stderr


def test_a_wrong_config_is_refused_before_tensorflow_is_imported(pytestconfig):
    script = (
        "import sys; from absl import flags; from jest_tf import config_flag, train\n"
        "config_flag.parse(sys.argv)\n"
        "try: train.main(sys.argv[:1])\n"
        "except ValueError as error: print(error)\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    arguments = [EMOJI, "--config.selection.sub_batch=130", "--workdir=w"]
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        cwd=pytestconfig.rootpath,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert "Nearest sub_batch that fit: 128 or 144" in result.stdout
