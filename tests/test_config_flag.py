"""The entry point's flags: each wrong input ends in one line that says how to fix it."""

import json
import subprocess
import sys

import pytest

EMOJI = "--config=configs/emoji.py"


def run_train(*arguments: str, cwd) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jest_tf.train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=1200)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([EMOJI + ":polcy=x", "--workdir=w"], "did you mean 'policy'"),
        (["--config=configs/nope.py", "--workdir=w"], "configs/nope.py"),
        (["--config=configs/emojy.py", "--config.seed=1", "--workdir=w"], "did you mean 'emoji'"),
        ([EMOJI, "--config.selection.polcy=x", "--workdir=w"], 'Did you mean "policy"'),
        ([EMOJI, "--config.selecton.policy=x", "--workdir=w"], "selecton"),
        ([EMOJI, "--config.total_steps=many", "--workdir=w"], "total_steps=many"),
        ([EMOJI, "--config.evals.mine=data/mine", "--workdir=w"], "KIND[@STEPS]:DATA"),
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
    assert result.stderr.count("\n") <= 2
    assert "Traceback" not in result.stderr


BROKEN = "def get_config(arg=''):\n    return base_config()\n"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("captions.csv", "file,caption\n0.jpg,a dog\n", "SyntaxError: invalid"),
        ("manifest.json", '{"label":\n null}', "manifest.json:2: NameError: name 'null'"),
        ("mine.py", "seed = 1\n", "no attribute 'get_config'"),
        ("mine.py", BROKEN, "mine.py:2: NameError: name 'base_config'"),
    ],
)
def test_a_file_that_is_no_config_is_told_with_the_place(
    tmp_path, pytestconfig, name, text, expected
):
    path = tmp_path / name
    path.write_text(text)
    for override in ([], ["--config.seed=1"]):
        command = [f"--config={path}", *override, "--workdir=w"]
        result = run_train(*command, cwd=pytestconfig.rootpath)
        assert result.returncode == 2
        assert result.stderr.startswith("error: --config could not be loaded: ")
        assert expected in result.stderr and "get_config()" in result.stderr
        assert result.stderr.count("\n") == 1


def parsed(*arguments):
    """The config that these arguments of a command give, read in a process of its own."""
    script = (
        "import sys; from jest_tf import config_flag; from jest_tf.config import settle\n"
        "flag = config_flag.define()\n"
        "config_flag.parse(sys.argv); c = config_flag.value_of(flag); settle(c)\n"
        "settle(c); print(c.to_json())"
    )
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=True)
    return json.loads(result.stdout)


def test_a_shipped_config_by_name_with_evaluations_by_flag():
    config = parsed(
        "--config=your_data:steps=50,sub_batch=64",
        "--config.data.train=data/mine",
        "--config.evals.coco=retrieval@20:data/coco",
    )
    assert config["selection"]["sub_batch"] == 64 and config["selection"]["super_batch"] == 320
    assert config["data"]["train"] == "data/mine#all_but=0.05"
    assert config["evals"]["held_out"]["data"] == "data/mine#held_out=0.05"
    assert config["evals"]["held_out"]["every_steps"] == 5
    assert config["evals"]["coco"] == {"kind": "retrieval", "data": "data/coco", "every_steps": 20}


def test_the_baseline_of_your_data_loads_hardly_more_than_it_trains_on():
    config = parsed("--config", "your_data:policy=uniform,eval=0", "--config.data.train=d")
    assert config["selection"]["policy"] == config["name"] == "uniform"
    assert config["selection"]["super_batch"] == 544 and config["evals"] == {}
    assert config["data"]["train"] == "d"


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
        timeout=1200,
    )
    assert result.returncode == 0, result.stderr
    assert "Nearest sub_batch that fit: 128 or 144" in result.stdout
