"""Contrastive image-text training that chooses its data online (JEST, arXiv 2406.17711).

The public API below is imported on first use: `import jest_tf` imports no TensorFlow.
"""

import importlib

__version__ = "0.2.0"

# Public name -> the module that defines it, and its name there where that differs.
_API = {
    "DualEncoder": "jest_tf.models.dual_encoder",
    "DualEncoderConfig": "jest_tf.models.dual_encoder",
    "Embeddings": "jest_tf.selection",
    "GuardedAdamW": "jest_tf.training.optimizer",
    "JestModel": "jest_tf.training.jest_model",
    "SelectionSpec": "jest_tf.selection",
    "UserError": "jest_tf.errors",
    "load_pretrained": "jest_tf.training.run.restore:load_workdir",
    "select": "jest_tf.selection",
    "select_by_loss": "jest_tf.selection",
}
__all__ = sorted(_API)


def __getattr__(name: str):
    if name not in _API:
        raise AttributeError(f"module 'jest_tf' has no attribute {name!r}; it has {__all__}")
    module, _, attribute = _API[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
