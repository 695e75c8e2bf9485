"""Contrastive image-text training that chooses its data online (JEST, arXiv 2406.17711)."""

__version__ = "0.1.0"
