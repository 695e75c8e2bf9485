"""The model card says what the metadata says, and says so where it says nothing."""

from jest_tf.serving.saved_model import model_card

INFO = {
    "fingerprint": "f" * 16,
    "embed_dim": 8,
    "image_size": 32,
    "scale": 10.0,
    "bias": -4.85,
    "n_parameters": 1_234_567,
    "preprocessing": {"image": "resized", "text": "cut"},
    "architecture": {
        "patch_size": 8,
        "n_tokens": 16,
        "vocab_size": 4096,
        "image": {"width": 64, "depth": 2, "heads": 4},
        "text": {"width": 32, "depth": 1, "heads": 2},
    },
    "metadata": {},
}


def test_sections_are_filled_from_the_metadata():
    metadata = {
        "name": "joint",
        "checkpoint": "runs/joint at step 240",
        "data": {"train": "tfds:emoji_captions/pool:train"},
        "selection": {"policy": "joint", "filter_ratio": 0.8},
        "cost": {"examples scored": 153_600, "FLOPs": 3.2e13},
        "scores": [
            {
                "name": "retrieval",
                "dataset": "emoji_captions/eval_retrieval:test",
                "metrics": {"image_to_text/recall@1": 0.1234},
                "rules": {"captions": "A caption | rule."},
            }
        ],
        "licences": ["CC-BY-4.0: twemoji"],
    }
    card = model_card(INFO | {"metadata": metadata})
    assert card.startswith("# Model card: joint\n")
    for line in (
        "| parameters | 1,234,567 |",
        "| image tower | width 64, depth 2, 4 heads, patch 8, 32 px |",
        "| logits | 10 · cosine -4.85 |",
        "| checkpoint | runs/joint at step 240 |",
        "| train | tfds:emoji_captions/pool:train |",
        "| policy | joint |",
        "| examples scored | 153,600 |",
        "| FLOPs | 32,000,000,000,000 |",
        "| retrieval | emoji_captions/eval_retrieval:test | image_to_text/recall@1 | 0.1234 |",
        "- A caption \\| rule.",
        "- CC-BY-4.0: twemoji",
    ):
        assert line in card.splitlines()


def test_what_is_not_known_is_said_to_be_unknown():
    card = model_card(INFO)
    assert "## Scores\n\nNot evaluated." in card
    assert "## Data\n\nNot stated." in card and "## Licences\n\nNot stated." in card
