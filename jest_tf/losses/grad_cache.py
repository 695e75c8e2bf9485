"""The gradient of a batch too large for its activations: GradCache (arXiv 2101.06983).

    1. embed all micro-batches, keeping the embeddings alone
    2. loss over the whole batch, and its gradient with respect to the embeddings
    3. embed each micro-batch again, and carry its rows of that gradient back to the weights

The result is the plain gradient of the whole batch, for one forward pass more, with the activations
of one micro-batch. So b = 32,768 with all its negatives fits on few devices. `gradients` uses this
only if the batch exceeds one micro-batch; otherwise it runs a single forward and backward pass.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from jest_tf.losses.contrastive import loss_and_gradients
from jest_tf.losses.tiles import PairGradients

# rows of a batch (nest of [k, ...]) -> zimg, ztxt float32 [k, d]
Embed = Callable[[Any], tuple[tf.Tensor, tf.Tensor]]


class EmbeddedPart(NamedTuple):
    """A part of the batch, and what embeds it: called twice for each row, so it must not draw."""

    embed: Embed
    batch: Any

    @property
    def rows(self) -> int:
        return tf.nest.flatten(self.batch)[0].shape[0]


def embed_in_micro_batches(
    embed: Embed, batch: Any, micro_batch: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """zimg, ztxt float32 [n, d] without gradient, `micro_batch` rows at a time (0: all), any n."""
    part = EmbeddedPart(embed, batch)
    if _fits([part], micro_batch):
        return _stopped(*embed(batch))
    n_full, rest = divmod(part.rows, micro_batch)
    # The first stands outside the loop: it tells the width of the embeddings.
    first = _stopped(*embed(_rows(batch, 0, micro_batch)))
    sides = [[z] for z in first]

    def body(k: tf.Tensor, *arrays: tf.TensorArray) -> tuple:
        embeddings = _stopped(*embed(_rows(batch, k * micro_batch, micro_batch)))
        return k + 1, *(a.write(k - 1, z) for a, z in zip(arrays, embeddings, strict=True))

    if n_full > 1:
        arrays = [tf.TensorArray(tf.float32, n_full - 1, element_shape=z.shape) for z in first]
        for side, array in zip(sides, _loop(1, n_full, body, arrays), strict=True):
            side.append(tf.reshape(array.stack(), [-1, side[0].shape[1]]))
    if rest:
        last = _stopped(*embed(_rows(batch, n_full * micro_batch, rest)))
        for side, z in zip(sides, last, strict=True):
            side.append(z)
    zimg, ztxt = (tf.concat(side, axis=0) for side in sides)
    return zimg, ztxt


def _stopped(zimg: tf.Tensor, ztxt: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.stop_gradient(zimg), tf.stop_gradient(ztxt)


def gradients(
    parts: Sequence[EmbeddedPart],
    logits: Callable[[], tuple[tf.Tensor, tf.Tensor]],
    variables: Sequence[tf.Variable],
    *,
    micro_batch: int,
    program: Callable[[Callable], Callable] = lambda function: function,
    **options,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """This replica's share of (loss [], dense gradients of `variables`), for a sum over replicas.

    parts: this replica's rows; one loss over their union. logits: () -> (scale, bias). micro_batch:
    rows whose activations exist at a time; 0: all, in one pass. program: makes one compiled program
    of a function of tensors, for what lies between the exchanges; by default nothing is compiled.
    options: of `contrastive.loss_and_gradients`; rows of teacher and captions are those of all
    parts in order.
    """
    if _fits(parts, micro_batch):
        return _in_one_pass(parts, logits, variables, options, program)

    @program
    def embed_all(batches: list) -> tuple[tf.Tensor, tf.Tensor]:
        pairs = zip(parts, batches, strict=True)
        return _joined([embed_in_micro_batches(p.embed, b, micro_batch) for p, b in pairs])

    @program
    def backward(batches: list, dz: PairGradients) -> list[tf.Tensor]:
        with _tape(variables) as tape:
            scale, bias = logits()
        found = _gradients(tape, (scale, bias), (dz.scale, dz.bias), variables)
        start = 0
        for part, batch in zip(parts, batches, strict=True):
            ends = (dz.zimg[start : start + part.rows], dz.ztxt[start : start + part.rows])
            found = _add_part(found, part._replace(batch=batch), ends, variables, micro_batch)
            start += part.rows
        return found

    batches = [part.batch for part in parts]
    loss, dz = loss_and_gradients(*embed_all(batches), *logits(), **options)
    return loss, backward(batches, dz)


def _fits(parts: Sequence[EmbeddedPart], micro_batch: int) -> bool:
    """Whether all rows are one micro-batch."""
    return not micro_batch or sum(part.rows for part in parts) <= micro_batch


def _joined(embedded: list[tuple[tf.Tensor, tf.Tensor]]) -> tuple[tf.Tensor, tf.Tensor]:
    """The embeddings of all parts, one part after the other."""
    zimg, ztxt = (tf.concat(side, axis=0) for side in zip(*embedded, strict=True))
    return zimg, ztxt


def _in_one_pass(parts, logits, variables, options, program) -> tuple[tf.Tensor, list[tf.Tensor]]:
    @program
    def embed_all(batches: list) -> tuple[tf.Tensor, ...]:
        pairs = zip(parts, batches, strict=True)
        return *_joined([part.embed(batch) for part, batch in pairs]), *logits()

    with _tape(variables) as tape:
        ends = embed_all([part.batch for part in parts])
    loss, dz = loss_and_gradients(*ends, **options)
    return loss, _gradients(tape, ends, tuple(dz), variables)


def _add_part(
    gradients: list[tf.Tensor],
    part: EmbeddedPart,
    dz: tuple[tf.Tensor, tf.Tensor],
    variables: Sequence[tf.Variable],
    micro_batch: int,
) -> list[tf.Tensor]:
    """`gradients` plus what the rows of one part contribute."""

    def add(gradients: Sequence[tf.Tensor], start: tf.Tensor | int, size: int) -> list[tf.Tensor]:
        with _tape(variables) as tape:
            embeddings = part.embed(_rows(part.batch, start, size))
        found = _gradients(tape, embeddings, _rows(dz, start, size), variables)
        return [a + b for a, b in zip(gradients, found, strict=True)]

    def body(k: tf.Tensor, *gradients: tf.Tensor) -> tuple:
        return k + 1, *add(gradients, k * micro_batch, micro_batch)

    n_full, rest = divmod(part.rows, micro_batch)
    if n_full:
        gradients = _loop(0, n_full, body, gradients)
    return add(gradients, n_full * micro_batch, rest) if rest else gradients


@contextlib.contextmanager
def _tape(variables: Sequence[tf.Variable]) -> Iterator[tf.GradientTape]:
    """A tape for the gradient of `variables` alone: nothing is kept or run for frozen parts."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        yield tape


def _gradients(tape: tf.GradientTape, targets, upstream, variables) -> list[tf.Tensor]:
    found = tape.gradient(
        targets,
        variables,
        output_gradients=upstream,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    # The token embedding's gradient comes as slices; sums over micro-batches need it dense.
    return [tf.convert_to_tensor(gradient) for gradient in found]


def _loop(start: int, end: int, body: Callable, state: Sequence) -> list:
    # One micro-batch after the other: the default runs up to ten at once, with ten's memory.
    _, *state = tf.while_loop(lambda k, *_: k < end, body, (start, *state), parallel_iterations=1)
    return state


def _rows(batch: Any, start: tf.Tensor | int, size: int) -> Any:
    """Rows start … start + size - 1 of every [n, ...] in a nest; `size` is static."""

    def cut(x: tf.Tensor) -> tf.Tensor:
        begin = [start] + [0] * (x.shape.rank - 1)
        return tf.slice(x, begin, [size, *x.shape[1:]])

    return tf.nest.map_structure(cut, batch)
