"""Pre-norm transformer blocks shared by the image and the text tower."""

import dataclasses
import functools
import zlib
from typing import NamedTuple

import keras
import tensorflow as tf

from jest_tf.models.fused import gelu, layer_norm

PREFIX = "lora_"  # of an adapter's name; the kernel's own name follows


def derived_seed(seed: int, name: str) -> int:
    """Seed of one weight, by its place in the model: other layers may come and go."""
    return zlib.crc32(f"{seed}/{name}".encode())


def glorot_uniform(
    fan_in: int, fan_out: int, seed: int, name: str
) -> keras.initializers.Initializer:
    """Glorot-uniform with stated fans: fused kernels keep the spread of their separate parts."""
    limit = (6.0 / (fan_in + fan_out)) ** 0.5
    return keras.initializers.RandomUniform(-limit, limit, seed=derived_seed(seed, name))


def normal(stddev: float, seed: int, name: str) -> keras.initializers.Initializer:
    """Normal with the seed that belongs to the weight `name`."""
    return keras.initializers.RandomNormal(0.0, stddev, seed=derived_seed(seed, name))


def dense(
    n_in: int, n_out: int, seed: int, name: str, policy: keras.DTypePolicy, kernel=None, **kwargs
) -> keras.layers.Dense:
    """A built dense layer, called by the last part of `name`; `kernel`: initializer."""
    kernel = kernel or glorot_uniform(n_in, n_out, seed, name)
    own_name = name.rpartition("/")[2]
    layer = keras.layers.Dense(
        n_out, kernel_initializer=kernel, dtype=policy, name=own_name, **kwargs
    )
    layer.build((None, n_in))
    return layer


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


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """Size of a transformer: `width` is split over `heads`; `mlp_dim` is the hidden width."""

    width: int
    depth: int
    heads: int
    mlp_dim: int


class Tower(keras.layers.Layer):
    """What both towers share: the blocks, and the norm behind them."""

    def __init__(self, size: TowerConfig, seed: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.width, self._size, self.seed = size.width, dataclasses.astuple(size), seed

    def add_blocks(self, recompute: bool, lora: Lora | None) -> None:
        """Makes them; in the name scope of the tower."""
        width, depth, heads, mlp_dim = self._size
        names = [f"{self.name}/block_{k}" for k in range(depth)]
        how = (width, heads, mlp_dim, self.seed)
        policy = self.dtype_policy
        self.blocks = [Block(*how, name, recompute, lora, dtype=policy) for name in names]
        self.norm = LayerNorm(width, dtype=policy, name="norm")


class LayerNorm(keras.layers.Layer):
    """Layer normalisation over the last axis; statistics and parameters in float32."""

    def __init__(self, width: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.width = width
        self.build()

    def build(self, input_shape: object = None) -> None:
        kept = {"dtype": "float32", "autocast": False}
        self.gamma = self.add_weight(shape=(self.width,), initializer="ones", name="gamma", **kept)
        self.beta = self.add_weight(shape=(self.width,), initializer="zeros", name="beta", **kept)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        return layer_norm(x, gamma, beta)


class Mlp(keras.layers.Layer):
    """Two dense layers around a GELU: [..., width] -> [..., width]."""

    def __init__(
        self, width: int, mlp_dim: int, seed: int, name: str, lora: Lora | None = None, **kwargs
    ) -> None:
        super().__init__(name=name.split("/")[-1], **kwargs)
        policy = self.dtype_policy
        with keras.name_scope(self.name):
            bias = normal(1e-6, seed, f"{name}/up/bias")
            self.up = dense(width, mlp_dim, seed, f"{name}/up", policy, bias_initializer=bias)
            bias = normal(1e-6, seed, f"{name}/down/bias")
            self.down = dense(mlp_dim, width, seed, f"{name}/down", policy, bias_initializer=bias)
            self.lora_up = adapter(lora, width, mlp_dim, seed, f"{name}/lora_up", policy)
            self.lora_down = adapter(lora, mlp_dim, width, seed, f"{name}/lora_down", policy)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        hidden = gelu(_adapted(self.up(x), self.lora_up, x))
        return _adapted(self.down(hidden), self.lora_down, hidden)


def adapter(
    lora: Lora | None, n_in: int, n_out: int, seed: int, name: str, policy: keras.DTypePolicy
) -> Adapter | None:
    """The adapter `name` (…/lora_KERNEL) of a kernel [n_in, n_out]; None where there are none."""
    if lora is None:
        return None
    initializer, own_name = normal(n_in**-0.5, seed, name), name.rpartition("/lora_")[2]
    return Adapter(n_in, n_out, lora, initializer, own_name, dtype=policy)


def _adapted(
    y: tf.Tensor, adapter: Adapter | None, x: tf.Tensor, columns: slice = slice(None)
) -> tf.Tensor:
    """`y`, a product of `x` with (columns of) a kernel, and what the kernel's adapter adds."""
    return y if adapter is None else y + adapter(x, columns=columns)


class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention without a mask; one product for queries, keys and values.

    Three narrow ones take twice as long on a CPU, keras.layers.MultiHeadAttention a quarter more.
    """

    def __init__(
        self, width: int, heads: int, seed: int, name: str, lora: Lora | None = None, **kwargs
    ) -> None:
        super().__init__(name=name.split("/")[-1], **kwargs)
        self.width, self.heads, self.head_dim = width, heads, width // heads
        self.qkv_kernel = self.add_weight(
            shape=(width, 3 * width),
            initializer=glorot_uniform(width, width, seed, f"{name}/qkv"),
            name="qkv_kernel",
        )
        self.qkv_bias = self.add_weight(shape=(3 * width,), initializer="zeros", name="qkv_bias")
        policy = self.dtype_policy
        with keras.name_scope(self.name):
            self.out = dense(width, width, seed, f"{name}/out", policy)
            self.lora_qkv = adapter(lora, width, 3 * width, seed, f"{name}/lora_qkv", policy)
            self.lora_out = adapter(lora, width, width, seed, f"{name}/lora_out", policy)
        self.built = True

    def call(self, x: tf.Tensor, last_query_only: bool = False) -> tf.Tensor:
        """`x` [n, L, width] -> [n, L, width], or [n, 1, width] for the last token's query alone."""
        kernel, bias = tf.convert_to_tensor(self.qkv_kernel), tf.convert_to_tensor(self.qkv_bias)
        if last_query_only:
            sizes = [self.width, 2 * self.width]
            q_kernel, kv_kernel = tf.split(kernel, sizes, axis=1)
            q_bias, kv_bias = tf.split(bias, sizes)
            query, rest = slice(self.width), slice(self.width, None)
            last = x[:, -1:]
            q = _adapted(keras.ops.matmul(last, q_kernel) + q_bias, self.lora_qkv, last, query)
            kv = _adapted(keras.ops.matmul(x, kv_kernel) + kv_bias, self.lora_qkv, x, rest)
            (q,), (k, v) = self._heads(q, 1), self._heads(kv, 2)
        else:
            qkv = _adapted(keras.ops.matmul(x, kernel) + bias, self.lora_qkv, x)
            q, k, v = self._heads(qkv, 3)
        logits = tf.matmul(q * self.head_dim**-0.5, k, transpose_b=True)  # [n, heads, Lq, L]
        weights = tf.cast(tf.nn.softmax(tf.cast(logits, tf.float32)), x.dtype)
        mixed = tf.transpose(tf.matmul(weights, v), [0, 2, 1, 3])  # [n, Lq, heads, head_dim]
        mixed = tf.reshape(mixed, [-1, mixed.shape[1], self.width])
        return _adapted(self.out(mixed), self.lora_out, mixed)

    def _heads(self, projected: tf.Tensor, parts: int) -> list[tf.Tensor]:
        """[n, L, parts·width] -> `parts` tensors [n, heads, L, head_dim]."""
        length = projected.shape[1]
        split = tf.reshape(projected, [-1, length, parts, self.heads, self.head_dim])
        # Parts outermost, so that taking them apart is a view; slicing costs a scatter backwards.
        return tf.unstack(tf.transpose(split, [2, 0, 3, 1, 4]))


class Block(keras.layers.Layer):
    """x + attention(norm(x)), then x + mlp(norm(x)); `recompute` runs it once more backwards."""

    def __init__(
        self, width: int, heads: int, mlp_dim: int, seed: int, name: str,
        recompute: bool = False, lora: Lora | None = None, **kwargs,
    ) -> None:  # fmt: skip
        super().__init__(name=name.split("/")[-1], **kwargs)
        policy = self.dtype_policy
        self.recompute = recompute
        with keras.name_scope(self.name):
            self.norm_attention = LayerNorm(width, dtype=policy, name="norm_attention")
            self.attention = SelfAttention(
                width, heads, seed, f"{name}/attention", lora, dtype=policy
            )
            self.norm_mlp = LayerNorm(width, dtype=policy, name="norm_mlp")
            self.mlp = Mlp(width, mlp_dim, seed, f"{name}/mlp", lora, dtype=policy)
        self.built = True

    def call(self, x: tf.Tensor, last_only: bool = False) -> tf.Tensor:
        """`x` [n, L, width] -> the same shape, or [n, 1, width]: the last token's output alone."""
        if not self.recompute:
            return self._transform(x, last_only)
        return tf.recompute_grad(functools.partial(self._transform, last_only=last_only))(x)

    def _transform(self, x: tf.Tensor, last_only: bool) -> tf.Tensor:
        kept = x[:, -1:] if last_only else x
        x = kept + self.attention(self.norm_attention(x), last_query_only=last_only)
        return x + self.mlp(self.norm_mlp(x))
