# SPDX-License-Identifier: Apache-2.0
"""What TensorFlow makes of a program's graph before it runs it: made once, and kept on disk.

Before the first call it simplifies the graph (Grappler), places it, and gathers what XLA compiles:
most of a second for a training step of MiniLM, while one core waits. A run with programs compiled
ahead reads the result from a file, by the way that TensorFlow has for it, TF_GRAPH_CACHING. What
TensorFlow would keep itself are graphs that it works on for three seconds and longer, under names
that two programs may share; so it is told of one file at a time, and of none that it could write.
"""

import contextlib
import copy
import functools
import os
import tempfile
from pathlib import Path

import tensorflow as tf
from tensorflow.core.framework.optimized_function_graph_pb2 import OptimizedFunctionGraph
from tensorflow.core.protobuf.config_pb2 import ConfigProto
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tensorflow.python.eager import context

from common.platform.machine_code import GRAPH_CACHE


@contextlib.contextmanager
def rewritten_once():
    """Programs that run in it for the first time are rewritten (by Grappler) in half the time.

    TensorFlow goes over a graph twice. The second time finds nothing in a training step that
    changes a number, nor do these find anything on a CPU: changes of layout, of memory, of loops.
    On a GPU they do, and nothing is changed here. To be entered at every call: TensorFlow
    rewrites a program again that is called with other options.
    """
    former = context.context().function_call_options
    context.context().function_call_options = _options_of_one_rewriting() or former
    try:
        yield
    finally:
        context.context().function_call_options = former


@functools.cache
def _options_of_one_rewriting():
    """None where there is a GPU."""
    if tf.config.list_physical_devices("GPU"):
        return None
    options = copy.copy(context.context().function_call_options)
    config = ConfigProto.FromString(options.config_proto_serialized)
    rewriting = config.graph_options.rewrite_options
    rewriting.meta_optimizer_iterations = RewriterConfig.ONE
    rewriting.layout_optimizer = rewriting.loop_optimization = RewriterConfig.OFF
    rewriting.memory_optimization = RewriterConfig.NO_MEM_OPT
    options.config_proto_serialized = config
    return options


def keep_rewriting(content, entry, program, arguments):
    """Calls a program for the first time, and adds what TensorFlow makes of its graph.

    Args:
        content, entry: of `kept_programs.to_bytes`.
        program: of `kept_programs.bind`. arguments: what it is called with.
    Returns:
        its result; and content and entry with the graph and the names of the devices that it was
        made for, as they are where TensorFlow did not make one graph of the program.
    """
    with context.collect_graphs(optimized=True) as graphs:
        result = program(*arguments)
    if len(graphs) != 1:
        return result, content, entry
    kept = OptimizedFunctionGraph.FromString(content)
    whole = copy.deepcopy(kept.function_graph.library.function[-1])
    kept.name = whole.signature.name
    kept.function_graph.CopyFrom(graphs[0])
    kept.function_graph.library.function.append(whole)
    # What is to be run though no result depends on it, as the writing of a variable.
    kept.node_name_to_control_ret.update({node: name for name, node in whole.control_ret.items()})
    kept.ret_types.extend(output.type for output in whole.signature.output_arg)
    kept.num_return_nodes = len(whole.signature.output_arg)
    content = kept.SerializeToString(deterministic=True)
    return result, content, entry | {"devices": devices()}


def devices():
    """Names of those that TensorFlow chooses from when it places a graph."""
    return sorted(context.context().devices())


@contextlib.contextmanager
def rewritten_before(content, function):
    """A program that runs in it for the first time has the graph that `keep_rewriting` kept.

    TensorFlow makes the graph anew where it cannot read it, or looks for it under another name, as
    with TF_JOB_NAME set.

    Args:
        content: bytes, of `keep_rewriting`.
        function: FunctionDef of the program.
    """
    # The file's name, in place of the number that each tracing ends a function's name with.
    stem, num_nodes = function.signature.name.rpartition("_")[0], len(function.node_def)
    former = os.environ.get(GRAPH_CACHE, "")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"_-1_{stem}_{num_nodes}").write_bytes(content)
        os.environ[GRAPH_CACHE] = folder
        try:
            yield
        finally:
            os.environ[GRAPH_CACHE] = former
