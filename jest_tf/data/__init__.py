"""Bytes in, super-batches out. Importing this package registers `emoji_captions` with TFDS."""

from jest_tf.data import emoji as emoji
