"""The contrastive loss as a function that a gradient tape can differentiate."""

from collections.abc import Callable

import tensorflow as tf

from jest_tf.losses.contrastive import loss_and_gradients


def contrastive_loss(
    zimg: tf.Tensor, ztxt: tf.Tensor, scale: tf.Tensor, bias: tf.Tensor, **options
) -> tf.Tensor:
    """This replica's share of the mean loss, with the gradient that comes with it; options: of
    `loss_and_gradients`."""
    loss, gradients = loss_and_gradients(zimg, ztxt, scale, bias, **options)

    @tf.custom_gradient
    def with_gradient(*inputs: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        del inputs
        return tf.identity(loss), lambda upstream: tuple(upstream * g for g in gradients)

    return with_gradient(zimg, ztxt, tf.convert_to_tensor(scale), tf.convert_to_tensor(bias))
