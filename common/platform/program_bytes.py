# SPDX-License-Identifier: Apache-2.0
"""A traced program as bytes, and the call of such bytes on the variables of a later run."""

import base64
import contextlib
import copy
import hashlib
import os
import sys
import tempfile
import threading

import tensorflow as tf

from common.platform.optimized_graphs import device_names, optimized_graph
from common.platform.tf_private import function_runtime

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
        "structure": _structure_of(concrete.structured_outputs),
        "devices": None,
    }


def bind(content, entry, variables, arguments):
    """Returns a program of `to_bytes` that uses the variables of this run.

    Args:
        content, entry: of `to_bytes` or `keep_optimized_graph`.
        variables: {name: tf.Variable}.
        arguments: tensors or TensorSpecs as those that it was traced with.
    Returns:
        function of such arguments; None where variables or arguments differ from those that it was
        traced with, or TensorFlow runs no functions by name.
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

    @contextlib.contextmanager
    def first_call():
        # A graph that was placed on other devices cannot run in this process.
        is_optimized = entry["devices"] == device_names()
        with (
            without_false_alarms(),
            optimized_graph(content, functions[-1]) if is_optimized else contextlib.nullcontext(),
        ):
            yield

    within = first_call

    def run(*arguments):
        nonlocal within
        left = iter(tf.nest.flatten(arguments))
        tensors = [next(left) if each is None else each for each in inputs]
        with within():
            outputs = runtime.call(name, tensors, num_outputs)
        within = contextlib.nullcontext
        return _pack(entry["structure"], iter(outputs or ()))

    return run


def _bound(variables, kind, *values):
    """Returns the tensor of a variable or a constant; None for an argument."""
    if kind == "variable":
        return variables[values[0]].handle
    if kind == "constant":
        dtype, text = values
        return tf.io.parse_tensor(base64.b64decode(text), tf.as_dtype(dtype))
    return None


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


def _structure_of(value):
    """Returns a nest of dicts, lists and tensors as JSON, with "*" for each tensor."""
    if isinstance(value, dict):
        return {key: _structure_of(value[key]) for key in sorted(value)}
    if isinstance(value, tuple | list):
        return [_structure_of(item) for item in value]
    return None if value is None else "*"


def _pack(structure, outputs):
    """Returns tensors, in the order of tf.nest.flatten, as a nest of the given structure."""
    if isinstance(structure, dict):
        return {key: _pack(structure[key], outputs) for key in sorted(structure)}
    if isinstance(structure, list):
        return [_pack(item, outputs) for item in structure]
    return None if structure is None else next(outputs)


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
