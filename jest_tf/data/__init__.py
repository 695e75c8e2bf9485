"""Bytes in, super-batches out."""
