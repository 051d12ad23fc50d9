# SPDX-License-Identifier: Apache-2.0
"""A traced program as bytes, and the call of such bytes on the variables of a later run.

The bytes also have the graph that TensorFlow makes of the program: before the first call it
optimizes the graph (Grappler), places it, and gathers what XLA compiles, which takes most of a
second for a training step of MiniLM, on one core. A run with kept programs reads the result from a
file, by TF_GRAPH_CACHING. TensorFlow itself would write only graphs that take it three seconds and
longer, under names that two programs may share; so it is given one file at a time, and none that it
could write.
"""

import base64
import contextlib
import copy
import hashlib
import os
import sys
import tempfile
import threading
from pathlib import Path

import tensorflow as tf

from common.platform.tf_private import GRAPH_FOLDER, collect_optimized_graphs, function_runtime

# Files of TensorFlow's sources whose log lines `without_false_alarms` drops.
FALSE_ALARMS = (b"cpu_aot_loader.cc", b"XlaSerializedCacheEntry")
one_at_a_time = threading.RLock()  # of the threads that call programs for the first time


def trace(step, arguments):
    """Returns a ConcreteFunction of step(*arguments)."""
    return tf.function(step, autograph=False).get_concrete_function(*arguments)


class NotKept(Exception):
    """A later run could not call this program."""


def to_bytes(concrete, variables, prefix):
    """Returns a traced function as bytes, and a JSON value with what `bind` needs besides.

    The bytes are an OptimizedFunctionGraph; the function is the last one of its library.

    Args:
        concrete: tf.types.experimental.ConcreteFunction.
        variables: {name: tf.Variable} that it may use.
        prefix: str, for its name and those of its inner functions, which are unique in a process.
    Raises:
        NotKept: it uses another variable, or TensorFlow runs no functions by name.
    """
    runtime = function_runtime()
    if runtime is None:
        raise NotKept(f"TensorFlow {tf.__version__} has no interface that runs it")
    names = {id(variable.handle): name for name, variable in variables.items()}
    outer_of = {placeholder.name: outer for outer, placeholder in concrete.graph.captures}
    inputs = []
    for tensor in concrete.graph.inputs:
        outer = outer_of.get(tensor.name)
        if outer is None:
            inputs.append(["argument", tensor.dtype.name, tensor.shape.as_list()])
        elif id(outer) in names:
            inputs.append(["variable", names[id(outer)]])
        elif outer.dtype == tf.resource:
            raise NotKept(f"it uses a variable that has no name here ({tensor.name})")
        else:
            value = base64.b64encode(tf.io.serialize_tensor(outer).numpy()).decode()
            inputs.append(["constant", outer.dtype.name, value])
    graph = runtime.graph()
    library = graph.function_graph.library
    library.CopyFrom(concrete.graph.as_graph_def().library)
    library.function.append(concrete.function_def)
    _rename_functions(library, prefix)
    return graph.SerializeToString(deterministic=True), {
        "function": library.function[-1].signature.name,
        "inputs": inputs,
        "num_outputs": len(concrete.graph.outputs),
        "structure": tf.nest.map_structure(
            lambda each: None if each is None else "*", concrete.structured_outputs
        ),
        "devices": None,
    }


def bind(content, entry, variables, arguments):
    """Returns a program of `to_bytes` that uses the variables of this run.

    None where variables or arguments differ from those that it was traced with, or TensorFlow runs
    no functions by name.

    Args:
        content, entry: of `to_bytes` or `keep_optimized_graph`.
        variables: {name: tf.Variable}.
        arguments: tensors or TensorSpecs as those that it was traced with.
    """
    runtime = function_runtime()
    if runtime is None:
        return None
    signature = [[each.dtype.name, each.shape.as_list()] for each in tf.nest.flatten(arguments)]
    if signature != [values for kind, *values in entry["inputs"] if kind == "argument"]:
        return None
    if any(kind == "variable" and values[0] not in variables for kind, *values in entry["inputs"]):
        return None
    # The runtime calls the function by its name. Importing it as a graph would take a second.
    functions = runtime.graph.FromString(content).function_graph.library.function
    for function in functions:
        runtime.add(function)
    inputs = [_bound(variables, *each) for each in entry["inputs"]]
    name, num_outputs = entry["function"].encode(), entry["num_outputs"]
    is_first = True

    def run(*arguments):
        nonlocal is_first
        left = iter(tf.nest.flatten(arguments))
        tensors = [next(left) if each is None else each for each in inputs]
        with contextlib.ExitStack() as stack:
            if is_first:
                # A graph that was placed on other devices cannot run in this process.
                is_optimized = entry["devices"] == device_names()
                stack.enter_context(without_false_alarms())
                if is_optimized:
                    stack.enter_context(optimized_graph(content, functions[-1]))
            outputs = iter(runtime.call(name, tensors, num_outputs) or ())
        is_first = False
        return tf.nest.map_structure(
            lambda each: None if each is None else next(outputs), entry["structure"]
        )

    return run


def _bound(variables, kind, *values):
    """Returns the tensor of a variable or a constant; None for an argument."""
    if kind == "variable":
        return variables[values[0]].handle
    if kind == "constant":
        dtype, text = values
        return tf.io.parse_tensor(base64.b64decode(text), tf.as_dtype(dtype))
    return None


def keep_optimized_graph(content, entry, program, arguments):
    """Calls a program for the first time, and adds the graph that TensorFlow makes of it.

    Returns its result; and content and entry with the graph and the names of the devices that it
    was made for, unchanged where TensorFlow did not make one graph of the program.

    content, entry: of `to_bytes`. program: of `bind`. arguments: what it is called with.
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

    content: bytes, of `keep_optimized_graph`. function: FunctionDef of the program.
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


@contextlib.contextmanager
def without_false_alarms():
    """Drops the lines that XLA logs for each file of machine code that it loads.

    They say, in 4,000 characters, that the processor lacks the feature "prefer-no-gather", which is
    a setting of XLA itself, and that a binary file is no text. TF_CPP_MIN_LOG_LEVEL does not stop
    them.
    """
    # One thread at a time: a second one would restore the first one's file as stderr.
    with one_at_a_time, tempfile.TemporaryFile() as log:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            log.seek(0)
            for line in log:
                if not any(source in line for source in FALSE_ALARMS):
                    os.write(2, line)


def _rename_functions(library, prefix):
    """Renames the functions of a library, and all references to them.

    Functions that XLA compiles are named by a hash of their content, by which XLA finds their
    machine code, so that programs of other configurations share it. The others get the prefix.
    """
    names = {}
    for function in library.function:
        name = function.signature.name
        names[name] = _content_name(function) if "_XlaMustCompile" in function.attr else None
        names[name] = names[name] or prefix + name

    def rename_attributes(attributes):
        for attribute in attributes.values():
            functions = [attribute.func] if attribute.HasField("func") else attribute.list.func
            for function in functions:
                function.name = names.get(function.name, function.name)
                rename_attributes(function.attr)

    for function in library.function:
        function.signature.name = names[function.signature.name]
        rename_attributes(function.attr)
        for node in function.node_def:
            node.op = names.get(node.op, node.op)
            rename_attributes(node.attr)
    for gradient in library.gradient:
        gradient.function_name = names.get(gradient.function_name, gradient.function_name)
        gradient.gradient_func = names.get(gradient.gradient_func, gradient.gradient_func)


def _content_name(function):
    """Returns a name that equal functions share; None where a function refers to others by name."""
    attributes = [attribute for node in function.node_def for attribute in node.attr.values()]
    if any(each.HasField("func") or each.list.func for each in attributes):
        return None
    nameless = copy.deepcopy(function)
    nameless.signature.name = ""
    digest = hashlib.sha256(nameless.SerializeToString(deterministic=True)).hexdigest()
    return f"compiled_{digest[:24]}"
