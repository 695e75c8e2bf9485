"""Time and memory of importing a SigLIP B/16 (203M parameters, random) from a Hugging Face folder.

    python -m benchmarks.import_weights

Prints two figures. The bounds (20 s, 3 GiB) are for an idle machine with a local disk.
"""

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from safetensors.numpy import save_file
from sentencepiece import sentencepiece_model_pb2

from benchmarks import figures
from jest_tf.models.dual_encoder import DualEncoderConfig, TowerConfig
from jest_tf.models.weights import huggingface, rules

MAX_SECONDS, MAX_GIB = 20.0, 3.0
TOWER = TowerConfig(width=768, depth=12, heads=12, mlp_dim=3072)
B16 = DualEncoderConfig(
    image_size=256, patch_size=16, n_tokens=64, vocab_size=32_000, embed_dim=768, image=TOWER,
    text=TOWER,
)  # fmt: skip


def write_folder(folder: pathlib.Path, config: DualEncoderConfig = B16) -> None:
    """A folder as SiglipModel.save_pretrained leaves it, with a vocabulary of nonsense."""
    generator = np.random.default_rng(0)
    weights = {
        name: 0.02 * generator.standard_normal(shape, np.float32)
        for name, shape in rules.our_shapes(config).items()
    }
    save_file(
        dict(rules.from_ours(huggingface.rules(config), weights)), folder / "model.safetensors"
    )
    heads = {"num_attention_heads": config.image.heads}
    content = {
        "model_type": "siglip",
        "vision_config": heads | {"image_size": config.image_size},
        "text_config": {"num_attention_heads": config.text.heads},
    }
    (folder / "config.json").write_text(json.dumps(content))
    model = sentencepiece_model_pb2.ModelProto()
    for i in range(config.vocab_size):
        name = ["<pad>", "</s>", "<unk>"][i] if i < 3 else f"▁word{i}"
        kind = [3, 3, 2][i] if i < 3 else 1  # control, control, unknown, normal
        model.pieces.add(piece=name, score=-float(i), type=kind)
    model.trainer_spec.model_type = 1  # unigram
    model.trainer_spec.unk_id, model.trainer_spec.eos_id = 2, 1
    model.trainer_spec.pad_id, model.trainer_spec.bos_id = 0, -1
    model.normalizer_spec.name = "identity"
    (folder / "spiece.model").write_bytes(model.SerializeToString())


def measure(folder: pathlib.Path) -> dict[str, float]:
    """Seconds and GiB of `jest import`, its start included."""
    command = [sys.executable, "-m", "jest_tf.import_weights"]
    started = time.perf_counter()
    subprocess.run(
        [*command, f"--from={folder}", f"--out={folder / 'run'}"], check=True, timeout=600
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"seconds": time.perf_counter() - started, "peak_gib": peak / 2**20}


def main() -> int:
    """Returns 1 if a bound was missed."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_folder(folder)
        found = measure(folder)
    context = "B/16, 203M random parameters, Hugging Face folder; start of Python included"
    for figure, bound, unit in (("seconds", MAX_SECONDS, "s"), ("peak_gib", MAX_GIB, "GiB")):
        figures.emit(
            f"import_{figure}", found[figure], f"< {bound:g}", unit, repeats=1, context=context,
            **figures.made_here(),
        )  # fmt: skip
    return int(found["seconds"] >= MAX_SECONDS or found["peak_gib"] >= MAX_GIB)


if __name__ == "__main__":
    sys.exit(main())
