"""The page of costs: made by its command, and current."""

import pandas as pd
import pytest

from benchmarks import scaling
from benchmarks.figures import DOCS, MEASURED
from jest_tf.configs import jest_b16
from jest_tf.devices import GIB, parse_device, parse_topology
from jest_tf.errors import UserError


def test_the_page_is_current():
    page = (DOCS / "scaling.md").read_text()
    compiled = scaling.read(str(MEASURED / "scaling_compiled.json"))
    mfu, cores = (scaling.FLAGS[name].default for name in ("mfu", "images_per_core"))
    rows = scaling.cost_rows(compiled, mfu, cores)
    for line in [*scaling.cost_tables(rows), *scaling.fit_table()]:
        assert line in page, "run `python -m benchmarks.scaling`"
    kept = pd.read_csv(DOCS / "scaling.csv", dtype=str, keep_default_na=False)
    assert kept.to_dict("records") == rows


@pytest.mark.parametrize("size", [16, 80])
def test_the_table_of_gpus_is_current(size):
    card = parse_device(f"gpu:{size}GiB")
    fits = [scaling.largest("B", False, card, name) for name in ("jest_b16", "flexi_jest_b16")]
    assert f"| {size} GiB | {fits[0]} | {fits[1]} |" in (DOCS / "gpu.md").read_text()


def test_rows_follow_from_sizes():
    config = jest_b16.get_config()
    small, large = (scaling.row(config, parse_topology(t), 0.4) for t in ("v5p:4x4x4", "v5p:4x8x8"))
    assert (small.scored, small.trained, large.trained) == (2560, 512, 128)
    assert small.flops == pytest.approx(4 * large.flops, rel=1e-6)
    assert small.images_per_second == pytest.approx(large.images_per_second)
    assert small.seconds == small.flops / 459e12 / 0.4
    assert 3 * GIB < large.memory < small.memory


def test_limits_are_named():
    row = scaling.row(jest_b16.get_config(), parse_topology("v5e:16x16"), 0.4)
    assert scaling.limit(row, {"used": 17 * GIB}, 500) == "memory: does not fit"
    assert scaling.limit(row, {"used": 12 * GIB}, 500).startswith("input, at ")
    assert scaling.limit(row, {"used": 12 * GIB}, 1e9).startswith("links, at ")


def test_results_are_kept(tmp_path):
    path = str(tmp_path / "compiled.json")
    scaling.keep(path, "a", "v5e:2x4", {"used": 1})
    scaling.keep(path, "a", "v5e:8x8", {"used": 2})
    assert scaling.read(path) == {"a": {"v5e:2x4": {"used": 1}, "v5e:8x8": {"used": 2}}}
    with pytest.raises(UserError, match="CONFIG@TOPOLOGY"):
        scaling.compile_one("emoji@v5e:2x4", "")
