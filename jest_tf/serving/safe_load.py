"""Loading a SavedModel that somebody else made: it may compute, and do nothing else.

A graph is a program, and some of TensorFlow's operations write files, call Python or use the
network. So a model is loaded only if every operation in it is on a list of those that compute: the
operations of our own exports, their like for other towers and tokenizers, and nothing else.

TensorFlow runs the initialiser of a SavedModel while it loads, unless the file holds exactly one
meta graph with an object graph. Any other file is refused.
"""

import re
from collections.abc import Iterable
from importlib import resources

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from jest_tf.errors import UserError, explaining

GRAPH_FILE = "saved_model.pb"
_INITIALISERS = ("saved_model_main_op", "legacy_init_op")
_LIST = resources.files("jest_tf") / "serving" / "allowed_ops.txt"
ALLOWED = frozenset(re.sub("#.*", "", _LIST.read_text("utf-8")).split())
# TensorFlow writes two functions for saving and restoring in a TensorFlow 1 session into every
# SavedModel. Nothing in TensorFlow 2 calls them: they may hold these, if nothing else calls them.
_SAVER = {"DisableCopyOnRead", "MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename"}


def load(path: str):
    """`tf.saved_model.load` of a model that only computes; UserError: no such model."""
    # TensorFlow and protobuf raise many types for damaged files.
    with explaining(Exception, f"the SavedModel in {path} does not load: {{error}}", str):
        if found := objections(path):
            raise UserError(
                f"the SavedModel in {path} is not loaded: {'; '.join(found)}. A model may hold "
                "only operations that compute; export the run again with `jest export`."
            )
        return tf.saved_model.load(path)


def objections(path: str) -> list[str]:
    """Why the SavedModel in a folder must not be loaded; empty if it only computes."""
    with tf.io.gfile.GFile(f"{path}/{GRAPH_FILE}", "rb") as file:
        saved = saved_model_pb2.SavedModel.FromString(file.read())
    if len(saved.meta_graphs) != 1:
        return [f"it has {len(saved.meta_graphs)} meta graphs, expected one"]
    meta_graph = saved.meta_graphs[0]
    if not meta_graph.HasField("object_graph_def") or not meta_graph.object_graph_def.nodes:
        return ["it has no object graph (TensorFlow 1 style), so loading would run its initialiser"]
    found = []
    if not all(node.op == "NoOp" for node in _initialisers(meta_graph)):
        found.append("it has an initialiser")
    if ops := operations(meta_graph) - ALLOWED:
        found.append(f"besides computing it would use {', '.join(sorted(ops))}")
    return found


def operations(meta_graph) -> set[str]:
    """All operations of the graph and of every function in its library, called or not.

    Left out are operations for saving, in functions that nothing but TensorFlow 1's saver calls.
    """
    library = meta_graph.graph_def.library
    # TensorFlow's own functions start so, and no operation does: none can hide behind a name.
    functions = {
        f.signature.name for f in library.function if f.signature.name.startswith("__")
    }  # fmt: skip
    called = set(meta_graph.object_graph_def.concrete_functions)
    called |= {
        name for pair in library.gradient for name in (pair.function_name, pair.gradient_func)
    }
    called |= {pair.gradient_func for pair in library.registered_gradients}
    called |= _called(_before(_initialisers(meta_graph), meta_graph))
    for function in library.function:
        called |= _called(function.node_def)
    ops = {node.op for node in meta_graph.graph_def.node}
    for function in library.function:
        of_function = {node.op for node in function.node_def}
        ops |= of_function - (set() if function.signature.name in called else _SAVER)
    return ops - functions


def _called(nodes: Iterable) -> set[str]:
    """Functions that operations name: as themselves, or as branches, loop bodies, maps."""
    values = [value for node in nodes for value in node.attr.values()]
    one = {value.func.name for value in values if value.HasField("func")}
    several = {func.name for value in values for func in value.list.func}
    return {node.op for node in nodes} | one | several


def _initialisers(meta_graph) -> list:
    """The nodes that a TensorFlow 1 session runs when it has loaded the graph."""
    collections = [meta_graph.collection_def[name] for name in _INITIALISERS]
    names = {name for found in collections for name in found.node_list.value}
    return [node for node in meta_graph.graph_def.node if node.name in names]


def _before(nodes: list, meta_graph) -> list:
    """These nodes and all that they wait for."""
    by_name = {node.name: node for node in meta_graph.graph_def.node}
    todo, found = list(nodes), {}
    while todo:
        node = todo.pop()
        if node.name not in found:
            found[node.name] = node
            names = (name.removeprefix("^").partition(":")[0] for name in node.input)
            todo += [by_name[name] for name in names]
    return list(found.values())
