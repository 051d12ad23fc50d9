# SPDX-License-Identifier: Apache-2.0
"""The programs of a run traced with shapes alone, and what they would cost: operations and memory.

Within a plain `tf.Graph` the variables of Keras have a shape and no memory, so tracing takes time
only: 10 s for BERT-large's training step. The traced steps are those that a run executes, with
loss, gradients and update.
"""

import math
from collections import Counter
from dataclasses import dataclass

import tensorflow as tf

from common.BaseModel import EVAL, PREDICT
from common.platform.tf_private import registered_kernels
from common.tasks.targets import POSITIONS, PREDICTED
from common.training.train_step import Replica

# Operations whose output shares their input's memory.
VIEWS = frozenset(
    ("Identity", "IdentityN", "Reshape", "ExpandDims", "Squeeze", "StopGradient", "PreventGradient")
)
PRODUCTS = ("MatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum")


@dataclass(frozen=True)
class Program:
    """One traced step."""

    shape: tuple[int, int]  # (B, T) of its features
    operations: tuple  # of tf.Operation, in the order in which they were traced
    functions: tuple  # of FunctionDef that they may call

    @property
    def flops(self):
        """Floating-point operations of its matrix products, two for a multiplication and addition.

        Each product counts by its own shapes, in the backward pass too. Elementwise operations are
        left out, as in Kaplan et al. 2020 (arXiv:2001.08361, section 2.1), whose estimate for a
        step is 6 x weights x tokens, without embeddings, plus attention.
        """
        return sum(_flops_of(op) for op in self.operations if op.type in PRODUCTS)

    @property
    def peak_bytes(self):
        """Peak memory of intermediate results, gradients among them, without the variables.

        Each result lives from the operation that computes it until the last one that reads it, in
        the order of tracing. Of operations that XLA fuses into one loop only the results count.
        """
        origin, last_use, size = {}, {}, {}
        for i, op in enumerate(self.operations):
            for tensor in op.inputs:
                last_use[origin.get(tensor.ref())] = i
            for tensor in op.outputs:
                if op.type in VIEWS:  # None: of a tensor from outside the step
                    origin[tensor.ref()] = origin.get(op.inputs[0].ref())
                elif op.type != "ReadVariableOp":  # the variable's own memory
                    origin[tensor.ref()] = tensor.ref()
                    size[tensor.ref()] = _bytes_of(tensor)
                    last_use[tensor.ref()] = i  # where nothing reads it
        freed = Counter()
        for tensor, num_bytes in size.items():
            freed[last_use[tensor]] += num_bytes
        live = peak = 0
        for i, op in enumerate(self.operations):
            live += sum(size.get(tensor.ref(), 0) for tensor in op.outputs)
            peak = max(peak, live)
            live -= freed[i]
        return peak

    def without_kernel(self, device_type):
        """Counts the operations that TensorFlow cannot run on a device.

        device_type: "CPU" or "GPU". Returns Counter of str, such as "Einsum (half)".
        """
        known = {function.signature.name for function in self.functions}
        nodes = [op.node_def for op in self.operations]
        nodes += [node for function in self.functions for node in function.node_def]
        kinds = Counter((node.op, _types_of(node)) for node in nodes if node.op not in known)
        absent = Counter()
        for (name, types), count in kinds.items():
            if not _has_kernel(name, dict(types), device_type):
                absent[_described(name, types)] += count
        return absent


def trace_train_step(
    model_fn, params, model, optimizer, shape, num_packed=None, num_predictions=None
):
    """Traces a training step. Call it in the `tf.Graph` that has model and optimizer.

    Where an update is of several batches, the program adds one batch, then makes the update.

    Args:
        model_fn, params, model, optimizer: as of `make_train_step`.
        shape: (B, T) of the batches of one device.
        num_packed: int. Rows of a batch that are packed into the B long ones; None: no packing.
        num_predictions: int. Tokens to predict of each of the B rows; None: the task predicts none.
    Returns:
        Program.
    """
    features, targets = _placeholders(model, shape, num_packed, num_predictions)
    num_rows = num_packed or shape[0]
    for name, spec in model.training_targets.items():
        targets[name] = tf.compat.v1.placeholder(
            spec.dtype, [num_rows, *spec.shape_in(shape[1])], name
        )
    # The mean over devices needs no more memory: it has the gradients' shapes.
    replica = Replica(model_fn, params, model, optimizer, mean=lambda tensors: tensors)

    def step():
        if optimizer.cfg.accumulation.is_single:
            return replica.update_from(features, targets)
        replica.add(features, targets, tf.constant(0), tf.constant(1))
        return replica.update_from_sums()

    return _traced(step, shape)


def trace_predict_step(
    model_fn, params, model, shape, num_packed=None, num_predictions=None, is_scored=False
):
    """Traces a step of prediction, or of evaluation: `is_scored`. Arguments: as of
    `trace_train_step`."""
    features, targets = _placeholders(model, shape, num_packed, num_predictions)
    if not (is_scored and model.has_scores):
        return _traced(lambda: model_fn(features, None, PREDICT, params, model), shape)

    def score():
        outputs = model_fn(features, targets, EVAL, params, model).predictions
        return model.build_scores(outputs, targets)

    return _traced(score, shape)


def _placeholders(model, shape, num_packed, num_predictions):
    """Returns features and targets: {name: placeholder}."""
    placeholder = tf.compat.v1.placeholder
    shapes = dict.fromkeys(("input_ids", "input_mask", "segment_ids"), shape)
    if num_packed is not None:
        shapes["starts"] = [num_packed]
    features = {name: placeholder(tf.int32, each, name) for name, each in shapes.items()}
    num_rows = num_packed or shape[0]
    targets = {
        name: placeholder(spec.dtype, [num_rows, *spec.shape_in(shape[1])], name)
        for name, spec in model.targets.specs.items()
    }
    if num_predictions is not None:
        predicted = [shape[0], num_predictions]
        targets |= {name: placeholder(dtype, predicted, name) for name, dtype in PREDICTED.items()}
        features[POSITIONS] = targets.pop(POSITIONS)
    return features, targets


def _traced(step, shape):
    graph = tf.compat.v1.get_default_graph()
    first = len(graph.get_operations())  # after placeholders, variables and initial values
    step()
    operations = tuple(graph.get_operations()[first:])
    return Program(shape, operations, tuple(graph.as_graph_def().library.function))


def bytes_of_variables(variables):
    return sum(_bytes_of(variable) for variable in variables)


def _bytes_of(tensor):
    """Returns 0 for shapes that tracing does not know: counts and conditions, nothing large."""
    if tensor.dtype in (tf.resource, tf.variant, tf.string):
        return 0
    return (tensor.shape.num_elements() or 0) * tensor.dtype.size


def _flops_of(op):
    if op.type == "Einsum":
        sizes = {}
        inputs, _ = op.get_attr("equation").decode().split("->")
        for letters, tensor in zip(inputs.split(","), op.inputs, strict=True):
            sizes |= dict(zip(letters, tensor.shape, strict=True))
        return 2 * math.prod(sizes.values())
    is_transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
    summed = op.inputs[0].shape[-2 if is_transposed else -1]
    return 2 * op.outputs[0].shape.num_elements() * summed


def _types_of(node):
    """Returns ((attribute, types), ...) of a NodeDef, types as numbers of DataType."""
    types_by_name = (
        (name, (value.type,) if value.type else tuple(value.list.type))
        for name, value in sorted(node.attr.items())
    )
    return tuple((name, types) for name, types in types_by_name if types)


def _has_kernel(name, types, device_type):
    """Whether an operation with {attribute: types} runs on a device; True where this is unknown."""
    kernels = registered_kernels(name)
    return kernels is None or any(
        kernel.device_type in (device_type, "DEFAULT")  # DEFAULT: any device
        and all(
            set(types.get(constraint.name, ())) <= set(constraint.allowed_values.list.type)
            for constraint in kernel.constraint
        )
        for kernel in kernels
    )


def _described(name, types):
    names = sorted({tf.as_dtype(each).name for _, several in types for each in several})
    return f"{name} ({', '.join(names)})" if names else name
