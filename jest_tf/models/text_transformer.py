"""Text tower: a bidirectional transformer, pooled at its last token (SigLIP)."""

import keras
import tensorflow as tf

from jest_tf.errors import UserError
from jest_tf.models.transformer import Lora, Tower, TowerConfig, dense, normal


def shorten_tokens(tokens: tf.Tensor, n_tokens: int) -> tf.Tensor:
    """Tokens [n, L] -> [n, n_tokens]: the first n_tokens - 1, and the last, which is pooled."""
    if n_tokens == tokens.shape[1]:
        return tokens
    return tf.concat([tokens[:, : n_tokens - 1], tokens[:, -1:]], axis=1)


class TextTransformer(Tower):
    """Tokens int [n, L' <= n_tokens] -> [n, embed_dim], not normalised. No mask, as in SigLIP."""

    def __init__(
        self, size: TowerConfig, seed: int, *, n_tokens: int, vocab_size: int, embed_dim: int,
        recompute: bool = False, lora: Lora | None = None, **kwargs,
    ) -> None:  # fmt: skip
        super().__init__(size, seed, **kwargs)
        self.n_tokens, width = n_tokens, size.width
        self.token_embedding = self.add_weight(
            shape=(vocab_size, width),
            initializer=normal(width**-0.5, seed, "text/token_embedding"),
            name="token_embedding",
        )
        self.positions = self.add_weight(
            shape=(n_tokens, width),
            initializer=normal(width**-0.5, seed, "text/positions"),
            name="positions",
        )
        with keras.name_scope(self.name):
            self.add_blocks(recompute, lora)
            name, policy = "text/projection", self.dtype_policy
            kernel = normal(width**-0.5, seed, name)
            self.projection = dense(width, embed_dim, seed, name, policy, kernel)
        self.built = True

    def call(self, tokens: tf.Tensor, depth: int | None = None) -> tf.Tensor:
        length = tokens.shape[1]
        if length is None or not 1 <= length <= self.n_tokens:
            raise UserError(
                f"token rows of length {length}: the text tower takes a known length from 1 to its "
                f"n_tokens, {self.n_tokens}; crop the tokens or raise n_tokens"
            )
        x = tf.gather(tf.convert_to_tensor(self.token_embedding), tokens)
        # A shortened text keeps the pooled token's own position, the last.
        x = x + shorten_tokens(tf.convert_to_tensor(self.positions)[tf.newaxis], length)
        *blocks, last = self.blocks[:depth]
        for block in blocks:
            x = block(x)
        # Only the last token is read, so the last block computes only that one.
        x = tf.squeeze(last(x, last_only=True), axis=1)
        return self.projection(self.norm(x))
