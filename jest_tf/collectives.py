"""How replicas talk. Selection and losses ask for a `Collectives`; the local form is the identity.

The form for the replicas of a strategy is `jest_tf.runtime.collectives`. No TensorFlow here.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import tensorflow as tf


class Collectives(Protocol):
    """The two exchanges that selection and losses need, among `size` replicas.

    rank: this replica's index, a Python int or an int32 scalar tensor. size: a Python int.
    in_loops: whether the exchanges may be called inside a `tf.while_loop`.
    """

    rank: "int | tf.Tensor"
    size: int
    in_loops: bool

    def all_gather(self, x: "tf.Tensor") -> "tf.Tensor":
        """[k, ...] of every replica -> [size * k, ...] in rank order, the same everywhere."""

    def all_reduce_sum(self, x: "tf.Tensor") -> "tf.Tensor":
        """The sum over replicas of `x`, the same everywhere, bit for bit."""


class LocalCollectives:
    """One replica: nothing travels."""

    rank = 0
    size = 1
    in_loops = True

    def all_gather(self, x: "tf.Tensor") -> "tf.Tensor":
        return x

    def all_reduce_sum(self, x: "tf.Tensor") -> "tf.Tensor":
        return x


LOCAL = LocalCollectives()
