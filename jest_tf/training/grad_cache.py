"""The gradient of a batch too large for its activations: GradCache (arXiv 2101.06983).

    1. embed all micro-batches, keeping the embeddings alone
    2. loss over the whole batch, and its gradient with respect to the embeddings
    3. embed each micro-batch again, and carry its rows of that gradient back to the weights

The result is the plain gradient of the whole batch, for one forward pass more, with the activations
of one micro-batch. So b = 32,768 with all its negatives fits on few devices.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from jest_tf.errors import UserError
from jest_tf.selection.collectives import LOCAL, Collectives
from jest_tf.training.contrastive import loss_and_gradients

# rows of a batch (nest of [k, ...]) -> zimg, ztxt float32 [k, d]
Embed = Callable[[Any], tuple[tf.Tensor, tf.Tensor]]


class EmbeddedPart(NamedTuple):
    """A part of the batch with the function that embeds it, such as one resolution of Flexi-JEST.

    embed: called twice for each row, so it must not draw: augment before. batch: nest of [k, ...].
    """

    embed: Embed
    batch: Any

    @property
    def rows(self) -> int:
        return tf.nest.flatten(self.batch)[0].shape[0]


def embed_in_micro_batches(
    embed: Embed, batch: Any, micro_batch: int, embed_dim: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """zimg, ztxt float32 [n, embed_dim] without gradient, `micro_batch` rows at a time.

    The activations of one micro-batch exist at a time. n need not be a multiple of `micro_batch`.

    Raises:
      UserError: `micro_batch` is below 1.
    """
    part = EmbeddedPart(embed, batch)
    n_full = part.rows // _checked(micro_batch)

    def body(k: tf.Tensor, *arrays: tf.TensorArray) -> tuple:
        rows = _rows(batch, k * micro_batch, micro_batch)
        return k + 1, *(a.write(k, z) for a, z in zip(arrays, embed(rows), strict=True))

    shape = [micro_batch, embed_dim]
    arrays = [tf.TensorArray(tf.float32, n_full, element_shape=shape) for _ in range(2)]
    _, *arrays = _loop(n_full, body, arrays) if n_full else (0, *arrays)
    sides = [[tf.reshape(a.stack(), [n_full * micro_batch, embed_dim])] for a in arrays]
    if rest := part.rows % micro_batch:
        for side, z in zip(sides, embed(_rows(batch, n_full * micro_batch, rest)), strict=True):
            side.append(z)
    zimg, ztxt = (tf.stop_gradient(tf.concat(side, axis=0)) for side in sides)
    return zimg, ztxt


def grad_cache_gradients(
    parts: Sequence[EmbeddedPart],
    logits: Callable[[], tuple[tf.Tensor, tf.Tensor]],
    variables: Sequence[tf.Variable],
    *,
    micro_batch: int,
    embed_dim: int,
    kind: str = "sigmoid",
    collectives: Collectives = LOCAL,
    block: int | None = None,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """This replica's share of the loss and of its gradient; the sums over replicas are the whole.

    Args:
      parts: this replica's rows; one loss over their union.
      logits: () -> (scale, bias), from `variables`.
      variables: what to take the gradient of, in this order.
      micro_batch: rows whose activations exist at a time.
      embed_dim: d.
      kind, collectives, block: see `contrastive.loss_and_gradients`.

    Returns:
      (loss [], gradients, dense, zero where a variable is not used).

    Raises:
      UserError: `micro_batch` is below 1, or `kind` is unknown.
    """
    embedded = [embed_in_micro_batches(*part, micro_batch, embed_dim) for part in parts]
    zimg, ztxt = (tf.concat(side, axis=0) for side in zip(*embedded, strict=True))
    with tf.GradientTape() as tape:
        scale, bias = logits()
    loss, dz = loss_and_gradients(
        zimg, ztxt, scale, bias, kind=kind, collectives=collectives, block=block
    )
    gradients = _gradients(tape, (scale, bias), (dz.scale, dz.bias), variables)
    start = 0
    for part in parts:
        ends = (dz.zimg[start : start + part.rows], dz.ztxt[start : start + part.rows])
        gradients = _add_part(gradients, part, ends, variables, micro_batch)
        start += part.rows
    return loss, gradients


def _add_part(
    gradients: list[tf.Tensor],
    part: EmbeddedPart,
    dz: tuple[tf.Tensor, tf.Tensor],
    variables: Sequence[tf.Variable],
    micro_batch: int,
) -> list[tf.Tensor]:
    """`gradients` plus what the rows of one part contribute."""

    def add(gradients: Sequence[tf.Tensor], start: tf.Tensor | int, size: int) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            embeddings = part.embed(_rows(part.batch, start, size))
        found = _gradients(tape, embeddings, _rows(dz, start, size), variables)
        return [a + b for a, b in zip(gradients, found, strict=True)]

    def body(k: tf.Tensor, *gradients: tf.Tensor) -> tuple:
        return k + 1, *add(gradients, k * micro_batch, micro_batch)

    n_full, rest = divmod(part.rows, micro_batch)
    if n_full:
        _, *gradients = _loop(n_full, body, gradients)
    return add(gradients, n_full * micro_batch, rest) if rest else gradients


def _gradients(tape: tf.GradientTape, targets, upstream, variables) -> list[tf.Tensor]:
    found = tape.gradient(
        targets,
        variables,
        output_gradients=upstream,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    # The token embedding's gradient comes as slices; sums over micro-batches need it dense.
    return [tf.convert_to_tensor(gradient) for gradient in found]


def _loop(n: int, body: Callable, state: Sequence) -> tuple:
    # One micro-batch after the other: the default runs up to ten at once, with ten's memory.
    return tf.while_loop(lambda k, *_: k < n, body, (0, *state), parallel_iterations=1)


def _rows(batch: Any, start: tf.Tensor | int, size: int) -> Any:
    """Rows start … start + size - 1 of every [n, ...] in a nest; `size` is static."""

    def cut(x: tf.Tensor) -> tf.Tensor:
        begin = [start] + [0] * (x.shape.rank - 1)
        return tf.slice(x, begin, [size, *x.shape[1:]])

    return tf.nest.map_structure(cut, batch)


def _checked(micro_batch: int) -> int:
    if micro_batch < 1:
        raise UserError(f"micro_batch = {micro_batch}: expected 1 or more rows")
    return micro_batch
