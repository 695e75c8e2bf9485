"""How replicas talk. Selection and losses ask for a `Collectives`; the local form is the identity.

The form for the replicas of a strategy is `jest_tf.runtime.collectives`. No TensorFlow here.
"""

import dataclasses
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import tensorflow as tf


# Float32 similarities that exist at a time, 16 MiB: where little memory is known of, see
# `jest_tf.devices.tile_values`.
TILE_VALUES = 2**22


class Collectives(Protocol):
    """The two exchanges that selection and losses need, among `size` replicas.

    rank: this replica's index, a Python int or an int32 scalar tensor. size: a Python int.
    in_loops: whether the exchanges may be called inside a `tf.while_loop`.

    Optional: `spread`, of those whose `all_gather` is a sum of `jest_tf.ops.words.Spread`: a caller
    may then make the buffer, and read the sum, inside programs of its own. `pads`, whether a buffer
    should always travel whole, because that costs less than to wait for how full it is.
    `tile_values`, how many similarities the replica's device holds at a time, else TILE_VALUES.
    """

    rank: "int | tf.Tensor"
    size: int
    in_loops: bool

    def all_gather(self, x: "tf.Tensor") -> "tf.Tensor":
        """[k, ...] of every replica -> [size * k, ...] in rank order, the same everywhere."""

    def all_reduce_sum(self, x: "tf.Tensor") -> "tf.Tensor":
        """The sum over replicas of `x`, the same everywhere, bit for bit."""


@dataclasses.dataclass(frozen=True)
class LocalCollectives:
    """One replica: nothing travels."""

    tile_values: int = TILE_VALUES
    rank = 0
    size = 1
    in_loops = True

    def all_gather(self, x: "tf.Tensor") -> "tf.Tensor":
        return x

    def all_reduce_sum(self, x: "tf.Tensor") -> "tf.Tensor":
        return x


LOCAL = LocalCollectives()


def room_of(collectives: Collectives) -> int:
    """Similarities that may exist at a time on the replica's device."""
    return getattr(collectives, "tile_values", TILE_VALUES)
