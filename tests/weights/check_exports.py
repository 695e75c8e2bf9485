"""Loads exported Hugging Face folders with transformers, and compares with what we compute.

    python tests/weights/check_exports.py write DIR      # in our environment: exports, inputs, ours
    python tests/weights/check_exports.py check DIR      # where torch and transformers are

`check` prints, for each model: tensors that transformers missed, texts with other ids, the largest
difference of a pixel (in grey levels) and of an embedding, and fails where ids or embeddings of
equal inputs differ.
"""

import json
import pathlib
import sys

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent
NAMES = ("siglip", "siglip2_shards")


def texts() -> list[str]:
    with np.load(HERE / "tokens.npz") as arrays:
        return json.loads(bytes(arrays["texts"]))


def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    found = [
        Image.fromarray(generator.integers(0, 256, (h, w, 3), np.uint8))
        for h, w in ((50, 70), (32, 32), (20, 90))
    ]
    return [image.resize((2 * image.width, 2 * image.height)) for image in found]


def write(folder: pathlib.Path) -> None:
    """Imports the golden models, exports them, and keeps our ids, pixels and embeddings."""
    import tensorflow as tf
    from golden_models import imported

    from jest_tf.data import preprocess
    from jest_tf.serving.public_formats import export_public

    for name in NAMES:
        run = imported(name, folder)
        model, tokenizer = run.model, run.tokenizer
        export_public(model, tokenizer, "huggingface", str(folder / name))
        ids = tokenizer(tf.constant([text.encode() for text in texts()]))
        pixels = tf.concat(
            [
                preprocess.fit(np.asarray(image)[None], model.config.image_size, model.pixels)
                for image in pictures()
            ],
            axis=0,
        )
        zimg = model.encode_image(preprocess.to_model_range(pixels))
        ztxt = model.encode_text(ids)
        np.savez(folder / f"{name}.npz", ids=ids, pixels=pixels, zimg=zimg, ztxt=ztxt)


def check(folder: pathlib.Path) -> int:
    """Returns the exit code."""
    import torch
    from transformers import AutoProcessor, SiglipModel

    failed = False
    for name in NAMES:
        model, info = SiglipModel.from_pretrained(folder / name, output_loading_info=True)
        processor = AutoProcessor.from_pretrained(folder / name)
        ours = np.load(folder / f"{name}.npz")
        batch = processor(
            text=texts(), images=pictures(), padding="max_length", truncation=True,
            return_tensors="pt",
        )  # fmt: skip
        other_ids = int((batch["input_ids"].numpy() != ours["ids"]).any(axis=1).sum())
        side = ours["pixels"].shape[1]
        pixels = (batch["pixel_values"].numpy().transpose(0, 2, 3, 1) + 1) * 127.5
        grey = np.abs(pixels[:, :side, :side] - ours["pixels"]).max()
        same = batch["pixel_values"].clone()
        same[:, :, :side, :side] = torch.tensor(
            ours["pixels"].transpose(0, 3, 1, 2) / 127.5 - 1, dtype=torch.float32
        )
        with torch.no_grad():
            out = model.eval()(input_ids=torch.tensor(ours["ids"]).long(), pixel_values=same)
        z = [
            float(np.abs(theirs.numpy() - ours[key]).max())
            for theirs, key in ((out.image_embeds, "zimg"), (out.text_embeds, "ztxt"))
        ]
        missed = sum(len(value) for value in info.values())
        print(
            f"{name}: {missed} tensors missed, {other_ids} of {len(texts())} texts with other "
            f"ids, {grey:.2g} grey levels, zimg {z[0]:.2g}, ztxt {z[1]:.2g}"
        )
        failed |= bool(missed or other_ids or max(z) > 1e-5)
    return int(failed)


if __name__ == "__main__":
    command, target = sys.argv[1], pathlib.Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    sys.exit(write(target) if command == "write" else check(target))
