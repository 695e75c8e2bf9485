"""What a replica's step asks of its device, counted in the graph of a strategy's step."""

import collections
from typing import NamedTuple

import tensorflow as tf

CALLS = ("StatefulPartitionedCall", "PartitionedCall")
# No kernel runs for these: they name a value, or another shape of it.
FREE = {
    "Const", "Identity", "IdentityN", "NoOp", "Placeholder", "Reshape", "ReadVariableOp",
    "StopGradient", "PreventGradient", "EnsureShape", "ExpandDims", "Squeeze", "Shape",
}  # fmt: skip


class Launches(NamedTuple):
    """programs: calls of compiled functions. kernels: type of every other op that runs -> count."""

    programs: int
    kernels: dict[str, int]

    @property
    def total(self) -> int:
        return self.programs + sum(self.kernels.values())


def launches(graph: tf.Graph, device: str) -> Launches:
    """Of one device; what depends on constants alone is folded, and sums over replicas, AddN under
    ReductionToOneDevice, are exchanges and no launches."""
    constant, programs, kernels = set(), 0, collections.Counter()
    for op in graph.get_operations():
        if op.type == "Const" or (
            op.inputs and op.type not in CALLS and all(x.op in constant for x in op.inputs)
        ):
            constant.add(op)
        if op in constant or not op.device.endswith(device) or op.type in FREE | {"AddN"}:
            continue
        if op.type in CALLS:
            assert op.get_attr("_XlaMustCompile"), f"{op.name} runs operation by operation"
            programs += 1
        else:
            kernels[op.type] += 1
    return Launches(programs, dict(kernels))
