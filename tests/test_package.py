"""The wheel, installed away from the checkout: what a user of `pip install` gets."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jest_tf.__main__ import COMMANDS

ROOT = pathlib.Path(__file__).resolve().parents[1]
# TensorFlow's own words, which a first user takes for failures.
NOISE = re.compile(r"^[IWEF]\d{4} |absl::InitializeLog|cuInit|oneDNN|retracing", re.M)
TINY = [
    "--config.model.variant=nano",
    "--config.data.image_size=16",
    "--config.model.image_size=16",
    "--config.model.patch_size=8",
    "--config.data.n_tokens=6",
    "--config.data.vocab_size=60",
    "--config.data.n_lanes=2",
    "--config.strategy.jit_compile=False",
    "--config.log.samples_every_steps=100",
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs a command with the installed wheel, in a folder that holds nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "-w", str(folder)],
        check=True,
    )
    (wheel,) = folder.glob("jest_tf-*.whl")
    site = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    empty = folder / "empty"
    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    environment.pop("TF_CPP_MIN_LOG_LEVEL")  # that of the tests

    def run(*words: str) -> str:
        result = subprocess.run(
            [sys.executable, *words],
            cwd=empty, env=environment, capture_output=True, text=True, timeout=1200,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        assert not NOISE.search(result.stderr), result.stderr
        return result.stdout

    run.folder = empty
    return run


@pytest.mark.process
def test_the_wheel_holds_the_product_alone(installed):
    where = installed(
        "-c", "import jest_tf, sys; print(jest_tf.__file__); print('tensorflow' in sys.modules)"
    )
    assert "/site/jest_tf/" in where and "False" in where
    (wheel,) = installed.folder.parent.glob("*.whl")
    listed = installed("-m", "zipfile", "-l", str(wheel))
    assert "jest_tf/configs/emoji.py" in listed
    for path in (ROOT / "jest_tf").rglob("*.*"):  # Templates and tables, not code alone.
        if path.is_file() and path.suffix != ".pyc":
            assert str(path.relative_to(ROOT)) in listed
    assert "benchmarks/" not in listed and "examples/" not in listed and "tests/" not in listed


@pytest.mark.process
def test_help_lists_the_commands_and_each_answers(installed):
    shown = installed("-m", "jest_tf", "--help")
    places = [shown.index(f"  {name} ") for name in COMMANDS]
    assert places == sorted(places)
    for name in COMMANDS:
        result = subprocess.run(
            [sys.executable, "-m", "jest_tf", name, "--no_such_flag=1"],
            cwd=installed.folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=1200,
        )  # fmt: skip
        assert result.returncode == 2 and "no_such_flag" in result.stderr, (name, result.stderr)
        assert "Traceback" not in result.stderr


@pytest.mark.process
@pytest.mark.slow
def test_prepare_train_and_export_without_the_checkout(installed):
    pictures = installed.folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    lines = ["file_name,text"]
    for i in range(40):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(pictures / f"{i}.png")
        lines.append(f"{i}.png,picture number {i} of many")
    (pictures / "metadata.csv").write_text("\n".join(lines) + "\n")
    installed("-m", "jest_tf", "prepare", "folder", "pictures", "--out=data")
    said = installed(
        "-m", "jest_tf", "train", "--config=your_data:policy=uniform,steps=10,sub_batch=8,eval=0.2",
        "--config.data.train=data", "--workdir=run", *TINY,
    )  # fmt: skip
    del said
    assert list((installed.folder / "run" / "evaluations").glob("*"))
    installed("-m", "jest_tf", "report", "--workdir=run")
    assert "<svg" in (installed.folder / "run" / "report.html").read_text()
    installed("-m", "jest_tf", "export", "--workdir=run", "--out=run/export")
    assert (installed.folder / "run" / "export").is_dir()


def test_the_public_api_is_lazy():
    script = (
        "import sys, jest_tf\n"
        "assert 'tensorflow' not in sys.modules and 'JestModel' in dir(jest_tf)\n"
        "jest_tf.UserError, jest_tf.SelectionSpec, jest_tf.select, jest_tf.load_pretrained\n"
        "jest_tf.JestModel, jest_tf.GuardedAdamW, jest_tf.DualEncoder, jest_tf.Embeddings\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        "try: jest_tf.nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=1200
    )
    assert result.returncode == 0, result.stderr
    assert "JestModel" in result.stdout
