# SPDX-License-Identifier: Apache-2.0
"""The private interfaces of TensorFlow that this program uses. No other file uses one.

They are the reason why pyproject.toml asks for tensorflow<2.22: any release may change them. Each
is looked up when it is needed, and where it is missing the program does without it (figures of
benchmarks/NOTES.md):

- Context.add_function_def, Context.call_function, OptimizedFunctionGraph: a start with kept
  programs takes 0.41 of the time. Without: each run traces and compiles its programs.
- collect_graphs, TF_GRAPH_CACHING: 0.82 of a start with kept programs. Without: TensorFlow
  optimizes their graphs again.
- Context.function_call_options: the first call of a program takes 1.4 s in place of 1.9. Without:
  Grappler goes over each graph twice, which with packed rows gives other last bits.
- Executor: 1.05 times the examples of short rows. Without: a step begins when the one before ends.
- Modules of tensorflow._api: imports take 3.9 s in place of 5.0. Without: all are imported at once.
- fast_wordpiece_tokenizer: 110 MiB less in runs that tokenize. Without: all of tensorflow-text.
- get_registered_kernels_for_op, device_lib: --validate_only finds operations without a kernel, and
  the memory of GPUs. Without: neither is checked.

The flags that `machine_code.py` sets belong to this release too: TensorFlow ends a process whose
TF_XLA_FLAGS it does not know. tests/common/platform/test_tf_private.py lists what a release lacks.
"""

import contextlib
import copy
import functools
import importlib
import operator
from types import SimpleNamespace

from common.platform.lazy_imports import import_alone

CONTEXT = "tensorflow.python.eager.context:"
CLASS = f"{CONTEXT}Context."
EXECUTOR = "tensorflow.python.eager.executor:new_executor"
FUNCTION_GRAPH = "tensorflow.core.framework.optimized_function_graph_pb2:OptimizedFunctionGraph"
CONFIG = "tensorflow.core.protobuf.config_pb2:ConfigProto"
REWRITER = "tensorflow.core.protobuf.rewriter_config_pb2:RewriterConfig"
KERNELS = "tensorflow.python.framework.kernels:get_registered_kernels_for_op"
DEVICES = "tensorflow.python.client.device_lib:list_local_devices"
WORDPIECE = "tensorflow_text.python.ops.fast_wordpiece_tokenizer"
GRAPH_FOLDER = "TF_GRAPH_CACHING"  # environment variable: a folder of optimized graphs

# What `lazy_imports` defers: modules that hold names for users, and no code that others need to
# have run. Imported later, the package tensorflow.lite would take the place of the API `tf.lite`.
_API = ("feature_column", "tpu", "test", "raw_ops", "experimental.numpy", "compat.v1", "compat.v2")
UNUSED_MODULES = {
    "tensorflow._api.v2.lite": "tensorflow.lite",
    "tensorflow._api.v2.__internal__.feature_column": None,
    **{f"tensorflow._api.v2.{part}": None for part in _API},
    **{f"keras.{part}visualization": None for part in ("", "src.", "_tf_keras.keras.")},
    "requests": None,  # by which TensorFlow asks for TPUs
}


def find(interface):
    """Returns what "module:name" or "module:Class.name" names, or None where it is missing."""
    module, _, name = interface.partition(":")
    try:
        return operator.attrgetter(name)(importlib.import_module(module))
    except (ImportError, AttributeError):
        return None


def _find_all(*interfaces):
    """Returns a list of them, or None where one is missing."""
    parts = [find(interface) for interface in interfaces]
    return None if None in parts else parts


def function_runtime():
    """Returns what runs functions by their names, or None.

    Its attributes: `graph`, the class OptimizedFunctionGraph; `add`, called with a FunctionDef;
    `call`, called with a name as bytes, a list of tensors and the number of outputs.
    """
    names = ("add_function_def", "call_function")
    parts = _find_all(FUNCTION_GRAPH, f"{CONTEXT}context", *(CLASS + name for name in names))
    if parts is None:
        return None
    context = parts[1]()
    return SimpleNamespace(graph=parts[0], add=context.add_function_def, call=context.call_function)


def collect_optimized_graphs():
    """A context manager that gives a list of the graphs which TensorFlow optimizes within it."""
    collect = find(f"{CONTEXT}collect_graphs")
    return contextlib.nullcontext([]) if collect is None else collect(optimized=True)


@contextlib.contextmanager
def optimizing_once():
    """Programs that are called for the first time within it are optimized in half the time.

    By itself Grappler goes over a graph twice. The second pass changes no number of a training
    step, and neither do these on a CPU: changes of layout, of memory, of loops. On a GPU they do,
    and nothing is changed here. To be entered at every call: TensorFlow optimizes a program again
    that is called with other options.
    """
    options = _options_of_one_pass()
    if options is None:
        yield
        return
    context = find(f"{CONTEXT}context")()
    former = context.function_call_options
    context.function_call_options = options
    try:
        yield
    finally:
        context.function_call_options = former


@functools.cache
def _options_of_one_pass():
    """None where there is a GPU, or an interface is missing."""
    import tensorflow as tf

    names = (CONFIG, REWRITER, f"{CONTEXT}context", f"{CLASS}function_call_options")
    parts = _find_all(*names)
    if parts is None or tf.config.list_physical_devices("GPU"):
        return None
    config_class, rewriter, context, _ = parts
    options = copy.copy(context().function_call_options)
    config = config_class.FromString(options.config_proto_serialized)
    passes = config.graph_options.rewrite_options
    passes.meta_optimizer_iterations = rewriter.ONE
    passes.layout_optimizer = passes.loop_optimization = rewriter.OFF
    passes.memory_optimization = rewriter.NO_MEM_OPT
    options.config_proto_serialized = config
    return options


def background_executor():
    """Returns an executor, or None.

    Calls within its `scope()` return before they are computed. `wait()` ends when they are, or
    raises their error, after which `clear_error()` makes it usable again.
    """
    parts = _find_all(EXECUTOR, f"{CONTEXT}executor_scope")
    if parts is None:
        return None
    executor = parts[0](enable_async=True)
    scope = functools.partial(parts[1], executor)
    return SimpleNamespace(scope=scope, wait=executor.wait, clear_error=executor.clear_error)


def registered_kernels(operation):
    """Returns the KernelDefs of an operation, given its name; None where they are not known."""
    get_kernels = find(KERNELS)
    return None if get_kernels is None else get_kernels(operation).kernel


def gpu_memory():
    """Returns bytes of memory that TensorFlow would reserve of each GPU: list of int."""
    devices = (find(DEVICES) or list)()
    return [device.memory_limit for device in devices if device.device_type == "GPU"]


def fast_wordpiece_tokenizer():
    """Returns the class FastWordpieceTokenizer, if possible without the two dozen libraries of
    tensorflow-text."""
    try:
        return import_alone(WORDPIECE).FastWordpieceTokenizer
    except (ImportError, AttributeError):
        from tensorflow_text import FastWordpieceTokenizer

        return FastWordpieceTokenizer
