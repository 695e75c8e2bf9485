"""Makes data/ and run/ with the first release; see README.md. Run it in an empty folder.

PYTHONPATH=CHECKOUT_OF_FDEDB4A python make.py
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255,) * 3}
STEPS = 6


def pictures(folder: pathlib.Path) -> None:
    """24 squares on black with a caption each."""
    folder.mkdir()
    for i in range(24):
        pixels = np.zeros((12, 12, 3), np.uint8)
        name = list(COLOURS)[i % 4]
        size, at = 3 + i // 4, i % 3
        pixels[at : at + size, at : at + size] = COLOURS[name]
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"a {name} square of {size} pixels")


def train() -> int:
    from jest_tf.config import base_config, evaluation
    from jest_tf.models import dual_encoder
    from jest_tf.training import loop

    tower = dual_encoder.TowerConfig(width=8, depth=1, heads=2, mlp_dim=16)
    dual_encoder.VARIANTS["nano"] = dual_encoder.DualEncoderConfig(
        image_size=8,
        patch_size=4,
        n_tokens=8,
        vocab_size=4096,
        embed_dim=8,
        image=tower,
        text=tower,
    )
    c = base_config()
    c.name, c.total_steps, c.optimizer.warmup_steps = "first", STEPS, 2
    c.data.train, c.data.data_dir = "data/manifest.json", "prepared"
    c.data.image_size, c.data.n_tokens, c.data.vocab_size, c.data.n_lanes = 12, 8, 60, 2
    c.model.variant, c.model.image_size, c.model.patch_size = "nano", 8, 4
    c.selection.policy, c.selection.criterion = "joint", "hard_learner"
    c.selection.super_batch, c.selection.sub_batch, c.selection.n_chunks = 16, 8, 2
    c.log.every_steps, c.checkpoint.every_steps, c.checkpoint.keep = 2, 3, 1
    c.evals.retrieval = evaluation("retrieval", "data/manifest.json", every_steps=3, batch_size=8)
    return loop.train(c, "run")


if __name__ == "__main__":
    pictures(pathlib.Path("pictures"))
    prepare = ["-m", "jest_tf.data.prepare", "folder", "pictures", "--out=data"]
    subprocess.run([sys.executable, *prepare], check=True)
    code = train()
    environment = pathlib.Path("run/environment.json")
    kept = {
        k: v for k, v in json.loads(environment.read_text()).items() if k in ("jest_tf", "packages")
    }
    environment.write_text(json.dumps(kept))
    sys.exit(code)
