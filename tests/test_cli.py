"""Entry points in a fresh process: exit codes, one message, no TensorFlow before the flags."""

import os
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

from jest_tf import cli
from jest_tf.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]

SCRIPT = """
import os, sys
from absl import flags
import pytest

from jest_tf import cli
from jest_tf.errors import UserError

FLAGS = flags.FlagValues()
_MODE = flags.DEFINE_string("mode", "fine", "What to do.", flag_values=FLAGS)
flags.DEFINE_string("out", None, "Where to write.", flag_values=FLAGS)


def main(argv):
    assert "tensorflow" not in sys.modules
    if _MODE.value == "user":
        raise UserError("--mode is 'user'; give another")
    if _MODE.value == "disk":
        os.makedirs(__file__ + "/out")
    if _MODE.value == "disk of TensorFlow":
        import tensorflow as tf
        tf.io.gfile.makedirs(__file__ + "/out")
    if _MODE.value == "record of TensorFlow":
        import tensorflow as tf
        tf.io.TFRecordWriter(__file__ + "/out")
    if _MODE.value == "bug":
        raise ValueError("a bug")
    if _MODE.value == "stop":
        os.kill(os.getpid(), 2)
    print(_MODE.value, argv[1:], *argv[2:], os.environ["TF_CPP_MIN_LOG_LEVEL"],
          os.environ["TF_FORCE_GPU_ALLOW_GROWTH"])


cli.run(main, FLAGS, kept="half of it")
"""


def run(tmp_path, *args):
    script = tmp_path / "entry.py"
    script.write_text(textwrap.dedent(SCRIPT))
    return subprocess.run(
        [sys.executable, str(script), *args],
        capture_output=True,
        text=True,
        timeout=1200,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_flags_and_rest_reach_main(tmp_path):
    done = run(tmp_path, "query", "--mode=other", "rest", "~/photos")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"other ['query', 'rest', '{os.path.expanduser('~/photos')}']")
    assert done.stdout.split()[-1] == "true", "memory of a GPU is taken as it is needed"


def test_a_name_of_a_file_that_is_no_text_is_printed(tmp_path):
    done = run(tmp_path, "query", b"caf\xe9.jpg")
    assert done.returncode == 0, done.stderr
    assert "caf\\udce9.jpg" in done.stdout


def test_home_and_variables_are_filled_in_wherever_a_path_may_stand(monkeypatch):
    monkeypatch.setenv("HOME", "/me")
    monkeypatch.setenv("DATA", "/data")
    words = ["program", "folder", "~/photos", "--out=~/x", "--config.data.train=~/a@1,$DATA/b@2"]
    assert cli.expand_paths([*words, "--data", "${DATA}/c", "--k=10", "a~b", "$NONE/x"]) == [
        "program", "folder", "/me/photos", "--out=/me/x",
        "--config.data.train=/me/a@1,/data/b@2", "--data", "/data/c", "--k=10", "a~b",
        "$NONE/x",
    ]  # fmt: skip
    texts = ["program", "--text=~ $DATA", "--text", "~/x", "--separator=~"]
    assert cli.expand_paths(texts) == texts
    for word in ("C:\\photos", "--out=d:/photos"):
        with pytest.raises(UserError, match="a path of Windows"):
            cli.expand_paths(["program", word])


def test_user_error_is_one_line_and_exit_code_2(tmp_path):
    done = run(tmp_path, "--mode=user")
    assert done.returncode == 2
    assert done.stderr == "error: --mode is 'user'; give another\n"


def test_two_commands_do_not_write_to_one_place(tmp_path):
    out = tmp_path / "table"
    with cli.only_writer(str(out)):
        done = run(tmp_path, f"--out={tmp_path}/./table")
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: --out={tmp_path}/./table: another command is")
        assert run(tmp_path, f"--out={out}2").returncode == 0, "another place"
    assert run(tmp_path, f"--out={out}").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["entry.py"], "no file is left there"
    done = run(tmp_path, f"--out={tmp_path}/entry.py/table")
    assert done.returncode == 2
    assert f"{tmp_path}/entry.py is a file and no folder" in done.stderr


@pytest.mark.parametrize("mode", ["disk", "disk of TensorFlow", "record of TensorFlow"])
def test_a_place_that_cannot_be_written_is_the_users_error(tmp_path, mode):
    done = run(tmp_path, f"--mode={mode}")
    assert done.returncode == 2
    told = done.stderr.splitlines()[-1]  # TensorFlow has a log of its own
    script = re.escape(f"{tmp_path}/entry.py")
    assert re.match(rf"error: {script}(/out)?: Not a directory\. ", told, re.I), done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_says_what_is_kept(tmp_path):
    done = run(tmp_path, "--mode=stop")
    assert done.returncode == 130
    assert done.stderr.strip() == "interrupted: half of it"


def test_a_bug_keeps_its_traceback(tmp_path):
    done = run(tmp_path, "--mode=bug")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_unknown_flag_names_the_nearest(tmp_path):
    done = run(tmp_path, "--mod=x")
    assert done.returncode == 2 and "did you mean 'mode'" in done.stderr


def test_help_shows_the_module_flags(tmp_path):
    assert "--mode: What to do." in run(tmp_path, "--help").stdout


def test_prepare_is_still_found_where_it_was():
    """Scripts of users call it by the name of the first release."""
    texts = [
        subprocess.run(
            [sys.executable, "-m", f"jest_tf.{place}prepare", "--help"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=1200,
        ).stdout
        for place in ("data.", "")
    ]
    assert texts[0] == texts[1] and "prepare" in texts[0]
