"""`python -m jest_tf.cache_reference` fills a cache from any model's embeddings."""

import numpy as np
from commands import run

from jest_tf import cache_reference
from jest_tf.data.reference_cache import ReferenceCache


def test_embeddings_of_another_model_by_command(make_manifest, tmp_path, capsys, caplog):
    manifest = make_manifest([6, 5])
    manifest.save(str(tmp_path / "manifest.json"))
    rng = np.random.default_rng(0)
    values = rng.normal(size=(11, 4)).astype(np.float32)
    np.savez(tmp_path / "e.npz", id=np.arange(11), zimg=values, ztxt=values)
    flags = [f"--data={tmp_path}", f"--out={tmp_path}/cache", f"--embeddings={tmp_path}/e.npz"]
    flags.append("--dim=4")
    assert run(cache_reference, [*flags, "--scale=100", "--bias=-10"]) == 0
    cache = ReferenceCache.load(str(tmp_path / "cache"))
    cache.check_manifest(manifest)
    assert (cache.scale, cache.bias, cache.dim) == (100.0, -10.0, 4)
    assert run(cache_reference, flags) == 2 and "--scale" in capsys.readouterr().err
    flags = [*flags, "--bias=-10"]
    assert run(cache_reference, [*flags, "--scale=-4"]) == 2
    assert "expected a positive number" in capsys.readouterr().err
    np.savez(tmp_path / "e.npz", id=np.arange(11), zimg=values[::-1], ztxt=values)
    assert run(cache_reference, [*flags, "--scale=100"]) == 2  # of the same name and size
    assert "holds another cache" in capsys.readouterr().err
    values[3, 1] = np.nan
    np.savez(tmp_path / "e.npz", id=np.arange(11), zimg=values, ztxt=values)
    with caplog.at_level("WARNING"):
        assert run(cache_reference, [*flags, "--scale=100", f"--out={tmp_path}/other"]) == 0
    assert "(first: record 3)" in caplog.text, "one bad row is no reason to stop"
