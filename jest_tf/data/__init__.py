"""Bytes in, super-batches out. Importing this package registers `emoji_captions` with TFDS."""

from examples.emoji import builder as builder
