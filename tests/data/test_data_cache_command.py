"""`python -m jest_tf.cache_reference` fills a cache from any model's embeddings."""

import subprocess
import sys

import numpy as np

from jest_tf.data.reference_cache import ReferenceCache


def test_embeddings_of_another_model_by_command(make_manifest, tmp_path):
    manifest = make_manifest([6, 5])
    manifest.save(str(tmp_path / "manifest.json"))
    rng = np.random.default_rng(0)
    values = rng.normal(size=(11, 4)).astype(np.float32)
    np.savez(tmp_path / "e.npz", id=np.arange(11), zimg=values, ztxt=values)
    command = [sys.executable, "-m", "jest_tf.cache_reference", f"--data={tmp_path}"]
    command += [f"--out={tmp_path}/cache", f"--embeddings={tmp_path}/e.npz", "--dim=4"]
    done = subprocess.run([*command, "--scale=100", "--bias=-10"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cache = ReferenceCache.load(str(tmp_path / "cache"))
    cache.check_manifest(manifest)
    assert (cache.scale, cache.bias, cache.dim) == (100.0, -10.0, 4)
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2 and "--scale" in refused.stderr
