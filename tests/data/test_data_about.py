"""What a data set says about itself, and sets whose builder is the user's own."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

from jest_tf.data import sources
from jest_tf.data.manifest import About, Manifest, mix
from jest_tf.errors import UserError

BUILDER = """
import io, json, pathlib
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

class MyTinySet(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(), "caption": tfds.features.Text()}
        metadata = tfds.core.MetadataDict(licences=["CC0"], limits=["Grey squares only"])
        features = tfds.features.FeaturesDict(features)
        return tfds.core.DatasetInfo(builder=self, features=features, metadata=metadata)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for n in range(3):
            yield n, {"image": np.full((8, 8, 3), n, np.uint8), "caption": f"grey {n}"}

    def download_and_prepare(self, **kwargs):
        super().download_and_prepare(**kwargs)
        row = {"id": 0, "label": "wrong", "noisy": True}
        (pathlib.Path(self.data_dir) / "labels.jsonl").write_text(json.dumps(row))
"""


@pytest.fixture
def my_module(tmp_path, monkeypatch):
    """Name of a module in the working directory that registers a builder."""
    (tmp_path / "my_tiny_set_module.py").write_text(BUILDER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sources, "FAILED_MODULES", {})
    return "my_tiny_set_module"


def test_a_builder_of_ones_own_is_registered_and_describes_its_set(my_module, tmp_path):
    sources.register(my_module)
    manifest = sources.open_source("tfds:my_tiny_set:train", str(tmp_path / "prepared"))
    assert manifest.n_records == 3
    assert manifest.about.licences == ("CC0",) and manifest.about.limits == ("Grey squares only",)
    (labels,) = manifest.about.labels
    assert json.loads(pathlib.Path(labels).read_text())["label"] == "wrong"
    # What is written down of a set, its name with the version, opens it again.
    again = sources.open_source(manifest.name, str(tmp_path / "prepared"))
    assert "1.0.0" in manifest.name and again == manifest
    # Another process, which has no builder, reads what is prepared.
    code = (
        "from jest_tf.data import sources\n"
        "sources.register('no_such_module')\n"
        f"m = sources.open_source('tfds:my_tiny_set:train', {str(tmp_path / 'prepared')!r})\n"
        "print(m.fingerprint, m.about.licences[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{manifest.fingerprint} CC0"


def test_a_set_that_is_not_found_names_the_module_that_failed(my_module, tmp_path):
    with pytest.raises(UserError, match=r"Set data\.tfds_module"):
        sources.open_source("tfds:no_such_set:train", str(tmp_path))
    sources.register("my_missing_module")
    with pytest.raises(UserError, match=r"my_missing_module \(ModuleNotFoundError"):
        sources.open_source("tfds:no_such_set:train", str(tmp_path))


def test_notes_travel_with_a_manifest_and_leave_its_fingerprint(make_manifest, tmp_path):
    plain = make_manifest([3, 4])
    noted = dataclasses.replace(
        plain, about=About(("CC0",), ("Cats only",), (str(tmp_path / "labels.jsonl"),))
    )
    assert noted.fingerprint == plain.fingerprint
    noted.save(str(tmp_path / "manifest.json"))
    stored = json.loads((tmp_path / "manifest.json").read_text())
    assert stored["about"]["labels"] == ["labels.jsonl"]
    assert Manifest.load(str(tmp_path / "manifest.json")) == noted
    plain.save(str(tmp_path / "plain.json"))
    assert "about" not in json.loads((tmp_path / "plain.json").read_text())
    other = dataclasses.replace(make_manifest([2], name="b"), about=About(("CC0", "MIT")))
    assert mix([noted, other], None, "both").about.licences == ("CC0", "MIT")
