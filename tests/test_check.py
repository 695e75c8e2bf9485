"""The command as a user runs it."""

import pathlib
import subprocess
import sys

from commands import run

from jest_tf import check as command

ROOT = pathlib.Path(__file__).parents[1]
EMOJI = ["--config=emoji:policy=uniform", "--nodata"]


def check(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jest_tf.check", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)


def test_a_sound_config_is_one_page(capsys):
    assert run(command, [*EMOJI, "--replicas=4", "--hosts=2", "--device=v5e"]) == 0
    page = capsys.readouterr().out
    lines = page.splitlines()
    assert lines[-1] == "No problem found."
    assert len(lines) < 40
    assert "Sizes: 4 replica(s) on 2 host(s)" in page
    assert "Memory per replica (estimate) on v5e" in page


def test_a_problem_is_found_without_tensorflow():
    config = [*EMOJI, "--replicas=5"]
    code = (
        f"import sys; sys.argv[1:] = {config!r}\n"
        "from jest_tf import check, cli\n"
        "try: cli.run(check.main, check.FLAGS)\n"
        "finally: print('tensorflow' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 1
    assert "PROBLEM: selection.super_batch = 128 is not divisible by the 5 replicas" in done.stdout
    assert done.stderr.strip().splitlines()[-1] == "False"


def test_wrong_flags_are_explained():
    for flags, message in [
        (["--device=v9"], "device 'v9' is unknown"),
        (["--compile_for=v5e"], "a v5e slice has 2 axes"),
        (["--compile_for=v5e:2x4", "--replicas=3"], "v5e:2x4 has 8 chips"),
        (["--hosts=2"], "--hosts=2 is more than the 1 replica(s)"),
        (["--config.strategy.kind=tpu", "--replicas=8"], "does not say on which slice"),
        (["--config.strategy.kind=multi_worker"], "does not say how many workers"),
    ]:
        done = check(*EMOJI, *flags)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_compiling_without_its_environment_is_a_problem(tmp_path, capsys):
    assert run(command, [*EMOJI, "--compile_for=v5e:2x4", f"--tpu_compile_env={tmp_path}"]) == 1
    assert "launch/tpu_compile_env.sh" in capsys.readouterr().out
