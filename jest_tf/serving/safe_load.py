"""Loading a SavedModel that somebody else made: it may compute, and do nothing else.

A graph is a program. Some of TensorFlow's operations read and write files, call Python or the
network; a model of images and texts needs none of them. What can run when a SavedModel is loaded or
called are the functions that its objects name, and what those call.
"""

import re
from collections.abc import Iterable

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from jest_tf.errors import UserError

GRAPH_FILE = "saved_model.pb"
# By parts of names, so that the versions of an operation (SaveV2, TFRecordDatasetV2) count as one.
ACTS = re.compile(
    r"File|PyFunc|Reader|Record|TextLine|CSV|Sql|LMDB|BigQuery|Snapshot|DataService|Rpc|Socket"
    r"|^(Save|Restore|Load|MergeV2|Print|Dump|Debug)|(Load|Save|Cache)Dataset|Summary"
)


def load(path: str):
    """`tf.saved_model.load`, after a look at what the model would do.

    Raises:
      UserError: no SavedModel, one that does not load, or one with operations that act.
    """
    try:
        found = acting_ops(path)
        if found:
            raise UserError(
                f"the SavedModel in {path} is not loaded: besides computing it would use "
                f"{', '.join(sorted(found))}, which reach files, Python or the network."
            )
        return tf.saved_model.load(path)
    except (OSError, DecodeError, tf.errors.OpError) as error:
        raise UserError(f"the SavedModel in {path} does not load: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the SavedModel in {path} does not load: {error}") from error


def acting_ops(path: str) -> set[str]:
    """Names of the operations in reach that do more than compute."""
    saved = saved_model_pb2.SavedModel()
    with tf.io.gfile.GFile(f"{path}/{GRAPH_FILE}", "rb") as file:
        saved.ParseFromString(file.read())
    return {
        op
        for meta_graph in saved.meta_graphs
        for op in _ops_in_reach(meta_graph)
        if ACTS.search(op)
    }


def _ops_in_reach(meta_graph) -> set[str]:
    functions = {f.signature.name: f for f in meta_graph.graph_def.library.function}
    todo = list(meta_graph.object_graph_def.concrete_functions)
    seen: set[str] = set()
    ops: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen or name not in functions:
            continue
        seen.add(name)
        for node in functions[name].node_def:
            ops.add(node.op)
            todo += [node.op, *_called(node.attr.values())]
    return ops - functions.keys()


def _called(attributes: Iterable) -> list[str]:
    """Functions that attributes of an operation name: branches, loop bodies, maps of datasets."""
    one = [value.func.name for value in attributes if value.HasField("func")]
    return one + [func.name for value in attributes for func in value.list.func]
