"""Low-rank adapters (LoRA, arXiv 2106.09685) beside the kernels of a transformer block."""

from typing import NamedTuple

import keras
import tensorflow as tf

PREFIX = "lora_"  # of an adapter's name; the kernel's own name follows


class Lora(NamedTuple):
    """rank of an adapter, and alpha: its product is multiplied by alpha / rank."""

    rank: int
    alpha: float


class Adapter(keras.layers.Layer):
    """alpha/rank · x·A·B, to be added to x·kernel: [..., n_in] -> [..., n_out].

    B starts at zero, so that a model with new adapters is the model without them. A is [n_in, rank]
    and B [rank, n_out]; no product as large as the kernel is made, forwards or backwards.
    """

    def __init__(self, n_in: int, n_out: int, lora: Lora, initializer, name: str, **kwargs) -> None:
        super().__init__(name=PREFIX + name, **kwargs)
        self.factor = lora.alpha / lora.rank
        self.a = self.add_weight(shape=(n_in, lora.rank), initializer=initializer, name="a")
        self.b = self.add_weight(shape=(lora.rank, n_out), initializer="zeros", name="b")
        self.built = True

    def call(self, x: tf.Tensor, columns: slice = slice(None)) -> tf.Tensor:
        """`columns`: of the kernel, where only some are used."""
        b = tf.convert_to_tensor(self.b)[:, columns]
        return keras.ops.matmul(keras.ops.matmul(x, tf.convert_to_tensor(self.a)), b) * self.factor

    def merged_into(self, kernel: tf.Tensor) -> tf.Tensor:
        """The kernel [n_in, n_out] that does the work of both, float32."""
        return kernel + self.factor * tf.matmul(self.a.value, self.b.value)


def kernel_of(adapter: Adapter) -> str:
    """Path of the kernel that an adapter stands beside: …/lora_up/a -> …/up/kernel."""
    place, _, name = adapter.a.path.removesuffix("/a").rpartition("/")
    name = name.removeprefix(PREFIX)
    return f"{place}/{name}_kernel" if name == "qkv" else f"{place}/{name}/kernel"
