"""The shipped photographs: counts, noise, licence, size, and that our own commands take them."""

import collections
import io
import pathlib

import pyarrow.parquet as pq
import pytest
from PIL import Image

from examples.photos import shrink
from examples.photos import tune as photos_tune
from jest_tf import config_checks
from jest_tf.data import prepare, sources

DATA = pathlib.Path(__file__).resolve().parents[3] / "data" / "photos"


@pytest.fixture(scope="module")
def rows():
    return {name: pq.read_table(DATA / f"{name}.parquet").to_pylist() for name in shrink.EVERY}


def test_is_what_its_readme_says(rows):
    assert {name: len(of) for name, of in rows.items()} == {
        "pool": 2640, "curated": 296, "test": 829,
    }  # fmt: skip
    assert sum(file.stat().st_size for file in DATA.iterdir()) < 5e6
    assert "MIT License" in (DATA / "LICENSE").read_text()
    noise = collections.Counter(row["noise"] for row in rows["pool"])
    assert noise["clean"] == 1584 and set(noise) == {
        "clean", "shuffled", "confused", "boilerplate",
    }  # fmt: skip
    assert len({row["label"] for row in rows["test"]}) == 81
    assert all(row["caption"] == row["label"] for row in rows["test"])
    for row in rows["pool"][::100]:
        assert min(Image.open(io.BytesIO(row["image"])).size) == shrink.SIDE


def test_no_test_picture_is_trained_on(rows):
    test = {row["image"] for row in rows["test"]}
    assert len(test) == 829
    assert not test & {row["image"] for name in ("pool", "curated") for row in rows[name]}


def test_prepare_takes_all_of_it(tmp_path, rows):
    out = str(tmp_path / "curated")
    prepare.prepare(
        prepare.Settings(kind="parquet", paths=(str(DATA / "curated.parquet"),), out=out)
    )
    manifest = sources.open_source(out)
    assert manifest.n_records == 296 and len(manifest.sources[0].labels) == 60


@pytest.mark.parametrize("argument", ["reference", "policy=joint", "policy=uniform,steps=8"])
def test_configs_are_sound(argument):
    c = photos_tune.get_config(argument)
    c.model.init = c.reference.workdir = "somewhere"
    c.model.image_size, c.model.patch_size, c.data.image_size = 48, 8, 48
    assert config_checks.problems(c) == []
