"""Records what CLIP_benchmark's own functions say of some embeddings, for the tests.

    pip install torch tqdm scikit-learn "numpy<2.3" && pip install --no-deps clip_benchmark==1.6.2
    python tests/evaluation/record_clip_benchmark.py

Writes clip_benchmark.npz beside this file: the embeddings, and each metric as a 0-d array. The
tests read that file, so they need neither PyTorch nor CLIP_benchmark. No two scores of a query are
equal in it: CLIP_benchmark breaks ties by order, this project counts them against the model.
"""

import pathlib
import types

import numpy as np

FILE = pathlib.Path(__file__).with_name("clip_benchmark.npz")
N_IMAGES, CAPTIONS, N_CLASSES, TEMPLATES, DIM, BATCH = 60, 5, 12, 3, 16, 8


def unit(z: np.ndarray) -> np.ndarray:
    return (z / np.linalg.norm(z, axis=-1, keepdims=True)).astype(np.float32)


def embeddings() -> dict[str, np.ndarray]:
    """Images, CAPTIONS noisy texts of each, and noisy prompts of the classes of the images."""
    rng = np.random.default_rng(0)
    zimg = rng.standard_normal((N_IMAGES, DIM))
    ztxt = np.repeat(zimg, CAPTIONS, axis=0)
    ztxt += 1.5 * rng.standard_normal(ztxt.shape)
    classes = rng.standard_normal((N_CLASSES, DIM))
    labels = rng.integers(0, N_CLASSES - 1, N_IMAGES)  # one class has no image
    prompts = classes[:, None] + 0.7 * rng.standard_normal((N_CLASSES, TEMPLATES, DIM))
    of_class = classes[labels] + 3.0 * rng.standard_normal((N_IMAGES, DIM))
    return {
        "zimg": unit(zimg), "ztxt": unit(ztxt), "labels": labels,
        "labelled_zimg": unit(of_class), "prompts": unit(prompts),
    }  # fmt: skip


def main() -> None:
    import torch
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

    class Lookup:
        """A 'model' that gets embeddings and gives them back."""

        def encode_image(self, z):
            return z

        encode_text = encode_image

    class Batches(list):
        """A 'data loader' that tells its data set's classes, as CLIP_benchmark asks it to."""

        dataset = types.SimpleNamespace(classes=range(N_CLASSES))

    e = embeddings()
    images, labelled = torch.tensor(e["zimg"]), torch.tensor(e["labelled_zimg"])
    texts = torch.tensor(e["ztxt"]).reshape(N_IMAGES, CAPTIONS, DIM)
    parts = range(0, N_IMAGES, BATCH)
    pairs = [(images[i : i + BATCH], list(texts[i : i + BATCH])) for i in parts]
    found = zeroshot_retrieval.evaluate(
        Lookup(), pairs, torch.stack, "cpu", amp=False, recall_k_list=[1, 5, 10]
    )
    labels = torch.tensor(e["labels"])
    examples = Batches((labelled[i : i + BATCH], labels[i : i + BATCH]) for i in parts)
    by_class = {str(c): [f"{c}/{t}" for t in range(TEMPLATES)] for c in range(N_CLASSES)}

    def look_up(names):
        places = [tuple(map(int, name.split("/"))) for name in names]
        return torch.tensor(np.stack([e["prompts"][place] for place in places]))

    found |= zeroshot_classification.evaluate(
        Lookup(), examples, look_up, list(by_class), by_class, "cpu", amp=False
    )
    np.savez_compressed(FILE, **e, **found)
    print({name: float(value) for name, value in found.items()})


if __name__ == "__main__":
    main()
