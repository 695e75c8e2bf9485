"""The folder that the benchmark imports is one that can be imported, at any size."""

import dataclasses

from benchmarks import import_weights
from jest_tf.models.dual_encoder import TowerConfig
from jest_tf.training.run.imported import import_run
from jest_tf.training.run.restore import load_workdir


def test_a_small_folder_is_imported(tmp_path):
    tower = TowerConfig(width=24, depth=1, heads=2, mlp_dim=32)
    config = dataclasses.replace(
        import_weights.B16, image_size=32, vocab_size=100, embed_dim=24, image=tower, text=tower
    )
    import_weights.write_folder(tmp_path, config)
    import_run(str(tmp_path), str(tmp_path / "run"), report=lambda line: None)
    assert load_workdir(str(tmp_path / "run")).tokenizer.vocab_size == 100
