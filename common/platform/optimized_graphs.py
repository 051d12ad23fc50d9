# SPDX-License-Identifier: Apache-2.0
"""The graph that TensorFlow makes of a program before its first call, kept on disk.

Before the first call TensorFlow optimizes the graph (Grappler), places it, and gathers what XLA
compiles: most of a second for a training step of MiniLM, on one core. A run with kept programs
reads the result from a file, by TF_GRAPH_CACHING. TensorFlow itself would write only graphs that
take it three seconds and longer, under names that two programs may share; so it is given one file
at a time, and none that it could write.
"""

import contextlib
import copy
import os
import tempfile
from pathlib import Path

import tensorflow as tf

from common.platform.tf_private import GRAPH_FOLDER, collect_optimized_graphs, function_runtime


def keep_optimized_graph(content, entry, program, arguments):
    """Calls a program for the first time, and adds the graph that TensorFlow makes of it.

    Args:
        content, entry: of `program_bytes.to_bytes`.
        program: of `program_bytes.bind`. arguments: what it is called with.
    Returns:
        its result; and content and entry with the graph and the names of the devices that it was
        made for, unchanged where TensorFlow did not make one graph of the program.
    """
    with collect_optimized_graphs() as graphs:
        result = program(*arguments)
    if len(graphs) != 1:
        return result, content, entry
    graph = function_runtime().graph.FromString(content)
    whole = copy.deepcopy(graph.function_graph.library.function[-1])
    graph.name = whole.signature.name
    graph.function_graph.CopyFrom(graphs[0])
    graph.function_graph.library.function.append(whole)
    # Operations that run though no result depends on them, such as assignments.
    graph.node_name_to_control_ret.update({node: name for name, node in whole.control_ret.items()})
    graph.ret_types.extend(output.type for output in whole.signature.output_arg)
    graph.num_return_nodes = len(whole.signature.output_arg)
    content = graph.SerializeToString(deterministic=True)
    return result, content, entry | {"devices": device_names()}


def device_names():
    """The devices that TensorFlow chooses from when it places a graph: sorted list of str."""
    return sorted(device.name for device in tf.config.list_logical_devices())


@contextlib.contextmanager
def optimized_graph(content, function):
    """A program that is called within it for the first time takes its graph from `content`.

    TensorFlow makes the graph again where it cannot read it, or looks for it under another name, as
    with TF_JOB_NAME set.

    Args:
        content: bytes, of `keep_optimized_graph`.
        function: FunctionDef of the program.
    """
    # The file's name has no number, with which each tracing ends a function's name.
    stem, num_nodes = function.signature.name.rpartition("_")[0], len(function.node_def)
    former = os.environ.get(GRAPH_FOLDER, "")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"_-1_{stem}_{num_nodes}").write_bytes(content)
        os.environ[GRAPH_FOLDER] = folder
        try:
            yield
        finally:
            os.environ[GRAPH_FOLDER] = former
