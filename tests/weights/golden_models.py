"""The golden models (make_models.py), and imports of them, for several tests."""

import pathlib
import shutil

import numpy as np

from jest_tf.models.weights.tensors import open_tensors
from jest_tf.training.run.imported import Options, import_run
from jest_tf.training.run.restore import LoadedRun, load_workdir

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE / "golden"
VOCABULARIES = {
    "siglip": "siglip",
    "siglip2_shards": "siglip2",
    "naflex": "siglip",
    "open_clip": "siglip",
}


def vocabulary(name: str) -> str:
    return str(HERE / f"{VOCABULARIES[name]}.model")


def stored(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name / "io.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def huggingface_tensors(name: str) -> dict[str, np.ndarray]:
    files = sorted(map(str, (GOLDEN / name).glob("*.safetensors")))
    return {key: tensor.read() for key, tensor in open_tensors(files).items()}


def imported(name: str, folder: pathlib.Path, **options) -> LoadedRun:
    """The golden model as a workdir below `folder`, loaded as any run is."""
    out = folder / f"{name}-run"
    options = {"vocab": vocabulary(name), "check": str(GOLDEN / name / "io.npz"), **options}
    import_run(str(GOLDEN / name), str(out), Options(**options), report=lambda line: None)
    return load_workdir(str(out))


def copied(name: str, folder: pathlib.Path) -> pathlib.Path:
    """A copy of a golden folder to damage, its vocabulary beside the weights."""
    to = folder / name
    shutil.copytree(GOLDEN / name, to)
    shutil.copy(vocabulary(name), to / "spiece.model")
    return to
